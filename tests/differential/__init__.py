"""Random sequences of PKCS #11 calls, sent to a plain SoftHSM token and to a virtual slot over several of them, and
compared call by call: the same CK_RV, the same lengths, the same outputs, the same objects at the end.
"""
