"""The embedded instructions as conversations."""

from dataclasses import dataclass

from common.data.conversations.messages import Conversation, answered, question
from common.data.embedded.instructions import Instruction, Instructions


@dataclass(frozen=True)
class TaughtInstructions:
    """Instructions with their answers, each made when it is asked for."""

    instructions: Instructions

    def __len__(self) -> int:
        return len(self.instructions)

    def __getitem__(self, index: int) -> Conversation:
        instruction = self.instructions[index]
        return answered(asked(instruction), instruction.answer)


def asked(instruction: Instruction) -> Conversation:
    """An instruction as a user says it, its medium first."""
    media = () if instruction.medium is None else (instruction.medium,)
    return question(*media, instruction.text)
