"""A module that starts a thread when it is imported, as a numerical library may. Asserts nothing."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
