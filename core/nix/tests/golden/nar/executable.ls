{"executable":true,"narOffset":128,"size":18,"type":"regular"}
