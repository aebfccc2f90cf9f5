"""App Container Images from web servers: by URL, and by App Container discovery (appc spec, discovery.md).

names    what example.com/app:1.0,os=linux asks for
meta     the meta tags of a page, and the URLs that their templates make
ask      one server asked; discovery walks up its paths
notes    what a URL held when it was asked last, so that it need not come again
fetch    signature first, then the image, then the importer; its dependencies the same way
keys     the keys that a name's server offers; whether they are trusted, a person says
"""
