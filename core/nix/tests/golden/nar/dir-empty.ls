{"entries":{},"type":"directory"}
