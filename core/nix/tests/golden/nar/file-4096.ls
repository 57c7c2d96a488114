{"narOffset":96,"size":4096,"type":"regular"}
