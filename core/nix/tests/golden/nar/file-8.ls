{"narOffset":96,"size":8,"type":"regular"}
