{"narOffset":96,"size":1,"type":"regular"}
