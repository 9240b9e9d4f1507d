"""Who is this: authenticators, origin policy.

    contract.py   what an authenticator is
    tokens.py     where a request carries its token, and the one answer to a bad one
    origin.py     which web pages may connect
    jwt.py        JSON Web Tokens: options, verification, issue and inspect
    jwks.py       the keys behind a JWKS URL
    none.py       nobody in particular: development and public read-only rooms

Nothing is imported here: PyJWT is loaded only where ``auth.type`` asks for it.
"""
