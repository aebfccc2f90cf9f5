"""Images from registries (OCI distribution-spec 1.1 and Docker's registry API v2), over urllib3.

    config        registries.conf: mirrors, what is blocked, where plain http will do
    endpoints     the places that may have one image, asked in turn
    reference     what HOST/REPOSITORY:TAG@DIGEST means
    credentials   who we are: the files and helpers of podman and docker
    auth          challenges and tokens
    transport     TLS, connections, who may be connected to, how long anything may take
    asking        one request: follow redirects, try again
    client        the same to a registry, logged in
    artifacts     what hangs on an image: referrers, signature tags, lookaside files
    listing       the tags of a repository
    blob          one download: resumed where it was cut, stopped where it lies
    parts         blobs that several fetches want
    pull          a registry seen as the directory of an image, and its import

Nothing here is loaded unless a registry is named.
"""
