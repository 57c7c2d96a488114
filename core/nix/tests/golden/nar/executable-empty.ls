{"executable":true,"narOffset":128,"size":0,"type":"regular"}
