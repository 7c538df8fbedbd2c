"""What the backward pass cannot do, said by operator."""

_WRITE_A_RULE = "write its rule and list it in RULES, or take the gradient at a tensor behind it"


class UnsupportedOperator(Exception):
    """An operator between the seeds and the wanted tensor has no usable derivative rule.

    Carries `op_type` and `output`, the first output of the node, by which it is found.
    """

    def __init__(self, op_type: str, output: str, advice: str = _WRITE_A_RULE) -> None:
        super().__init__(
            f"no backward rule for {op_type} (the node that makes {output!r}): {advice}"
        )
        self.op_type = op_type
        self.output = output
        self.advice = advice
