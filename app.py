"""The demo page: `python app.py`, or `make app`. Everything is in ntlbg/app."""

import sys


# The model's process imports this file again and must not serve a second page.
if __name__ == "__main__":
    try:
        from ntlbg.app.page import main
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        sys.exit("ntlbg: error: the page needs gradio; install it with pip install 'ntlbg[app]'")
    sys.exit(main())
