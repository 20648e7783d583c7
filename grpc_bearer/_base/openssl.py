"""OpenSSL's codes for why a certificate is not accepted (`X509_V_ERR_…`), for which `ssl` has no names."""

NOT_YET_VALID, EXPIRED = 9, 10
#: Self-signed, self-signed in the chain, no local issuer, no issuer of the first certificate.
UNKNOWN_ISSUER = (18, 19, 20, 21)
#: Another host, another address.
OTHER_NAME = (62, 64)
