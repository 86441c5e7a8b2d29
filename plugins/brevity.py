"""A worked example of a reward: pays for reasoning that is no longer than it need be."""


def brevity(thoughts, truncated, target=20, limit=60):
    """1.0 up to ``target`` words of reasoning, falling to 0.0 at ``limit``; no verdict where there is no reasoning.

    Args:
        thoughts: N texts, what stands between the think tags; None where nothing does.
        truncated: N flags, True where the completion was cut off at its length limit.
        target, limit: words.
    """
    scores = []
    for thought, cut in zip(thoughts, truncated, strict=True):
        if thought is None:
            scores.append(None)
        elif cut:
            scores.append(0.0)
        else:
            excess = len(thought.split()) - target
            scores.append(1.0 - min(max(excess / (limit - target), 0.0), 1.0))
    return scores
