"""How both sides of an HTTP/2 connection begin (RFC 9113 section 3.4)."""

#: The client's first bytes; a SETTINGS frame follows.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: A SETTINGS frame that sets nothing. The server's first frame is one, too.
SETTINGS = bytes([0, 0, 0, 0x4, 0, 0, 0, 0, 0])
