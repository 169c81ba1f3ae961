"""The line of a traceback of Ray that says what is wrong."""


def telling_line(text: str) -> str:
    """Return of a traceback of Ray the line that says what is wrong: ours, else HAProxy's."""
    lines = text.splitlines()
    telling = [line for line in lines if "service.errors." in line]
    telling = telling or [line for line in lines if "[ALERT]" in line]
    if telling:
        return " ".join(telling[0].partition("service.errors.")[2].split()) or telling[0].strip()
    return " ".join(text.split())[:500]
