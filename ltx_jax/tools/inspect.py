"""`python -m ltx_jax.tools.inspect`: see `inspection.py`.

A tool that is run by its path has this folder on Python's path, where this file would hide the module `inspect` of the
standard library, which most libraries import. Imported under that name, it takes the folder off the path and stands
aside.
"""

import os
import sys

if __name__ == "inspect":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    del sys.modules["inspect"]
    import inspect

    sys.modules["inspect"] = inspect
else:
    from ltx_jax.tools.inspection import main

    if __name__ == "__main__":
        main()
