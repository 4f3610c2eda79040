"""The far side of an ssh target: one request on stdin, one reply on stdout. It needs Python 3.8 and its standard library.

It comes with every request (`edge.devices.ssh_link`), so nothing is installed there but the bundles that are deployed. All else that it keeps lies in
one folder, which belongs to one session at a time.

A request and a reply are alike: a line of JSON, then the bytes of the files that its ``files`` lists as [name, size].
"""
