"""``python3 -m run COMMAND``, in the folder of a bundle. An old Python must be able to read this file, to say that it is too old."""

import sys

if sys.version_info < (3, 8):
    sys.exit(
        "bundle: this is Python %d.%d, and 3.8 or newer is needed; next: name another one, e.g. python3.9 -m run self-test" % sys.version_info[:2]
    )

sys.dont_write_bytecode = True  # the folder may be read-only, and its checksums are of what was packed
sys.path.append(sys.path.pop(0))  # this folder comes last: a stray file in it stands for none of Python's own

if not __package__:
    import os
    import shlex

    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.stderr.write("bundle: run/ is a package and no script; next: cd %s && python3 -m run self-test\n" % shlex.quote(folder))
    sys.exit(2)

try:
    from .commands import main
except (ImportError, SyntaxError, ValueError, NameError, AttributeError, TypeError) as error:
    sys.exit("bundle: its own code is damaged: %s; next: copy the bundle again, sha256sum -c SHA256SUMS says which file" % error)
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
