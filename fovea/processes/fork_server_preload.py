"""First import of the fork server, which forks the workers: it ignores SIGTERM and SIGINT. Nothing else imports it.

A service manager may send SIGTERM to every process of a service at once. Requests that wait for a worker are still to
be answered then. The fork server and the workers, which inherit the handlers, are therefore ended by the service.
"""

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
