{"narOffset":96,"size":0,"type":"regular"}
