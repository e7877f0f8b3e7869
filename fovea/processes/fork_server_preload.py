"""What the server process that forks workers imports first; nobody else imports it.

A service manager may send SIGTERM to every process of a service at once. Those who wait for a worker are still to have
their answers then, so the server and the workers, which inherit this, leave it to the service to end them.
"""

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
