"""Whether the Hugging Face Hub can be reached: asked briefly, before anything is tried."""

from __future__ import annotations


def hub_answers() -> bool:
    """Whether the Hub answers within five seconds; false, too, when it was said to be off line.

    The Hub's own clients try again for 20 to 40 seconds before they give up.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # whichever HTTP library is below has its own exceptions
        return False
    return True
