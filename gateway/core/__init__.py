"""Core of the gateway: answers from images and questions. It knows no HTTP."""
