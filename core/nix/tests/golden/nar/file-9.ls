{"narOffset":96,"size":9,"type":"regular"}
