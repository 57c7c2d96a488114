{"narOffset":96,"size":7,"type":"regular"}
