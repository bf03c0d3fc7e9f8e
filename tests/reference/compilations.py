"""`compilations`: how tests count the programs that are compiled."""

import contextlib

from jax import monitoring


@contextlib.contextmanager
def compilations():
    """Yields a list that receives the duration of each compilation, in seconds."""
    durations = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            durations.append(seconds)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield durations
    finally:
        monitoring.unregister_event_duration_listener(listen)
