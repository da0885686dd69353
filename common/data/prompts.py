"""The strings around an image's text, in training and in evaluation: OpenFlamingo's `Output:` for
captions and bare answers, `Question: ... Short answer:` for questions. A prompt ends where the
answer begins, and the answer starts with a space, so the tokens of a prompt are a prefix of the
tokens of the completed text."""

OUTPUT_PROMPT = "Output:"


def question_prompt(question: str) -> str:
    """`Question: What colour is shown? Short answer:`"""
    return f"Question: {question} Short answer:"


def completed(prompt: str, answer: str) -> str:
    """A prompt with its answer, as training shows it: `Output: red`."""
    return f"{prompt} {answer}"
