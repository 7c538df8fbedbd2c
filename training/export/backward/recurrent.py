"""Cotangents of recurrent layers with respect to the sequence they read.

The states of all steps are known from the forward pass, so the gates of all steps are made again
at once, by two matrix products.  One Scan against the direction of reading then carries dL/dH
from step to step.  Slopes do not depend on dL/dH; they are made beforehand, and a turn of the
Scan multiplies by them and does one matrix product.
"""

from collections.abc import Callable, Sequence

from training.export.backward.direction import Direction, joined
from training.export.backward.expressions import Term
from training.export.backward.scan import States, Turn
from training.export.backward.step import Cotangents, Step

_READ_FROM_END = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}


def gru(step: Step) -> Cotangents:
    """H = (1 - z) n + z H', H' of the step before, with gates in the order z, r, n and

        z, r = sigmoid(W x + b + R H' + b'),   n = tanh(W x + b + r q),   q = R H' + b'.

    With d = dL/dH, through its readers and through the next step, the cotangents of the sums are

        dz = d (H' - n) z (1 - z),   dn = d (1 - z) (1 - n^2),   dr = dn q r (1 - r),   dq = dn r,

    and dH' = d z + R^T (dz, dr, dq), dx = W^T (dz, dr, dn).
    Source: Cho et al. 2014, arXiv:1406.1078; the place of r is torch's.
    """
    _refuse_variants(step, ["Sigmoid", "Tanh"])
    if not step.attribute("linear_before_reset", 0):
        raise step.refusal("its reset gate comes before the product; use linear_before_reset=1")
    return _over_directions(step, _through_gru)


def lstm(step: Step) -> Cotangents:
    """C = f C' + i c, H = o tanh C, C' and H' of the step before, gates in the order i, o, f, c:

        i, o, f = sigmoid(W x + b + R H' + b'),   c = tanh(W x + b + R H' + b').

    The layer gives away its last C only; a Scan makes them all again.  With d = dL/dH and
    e = dL/dC + d o (1 - tanh^2 C), each through its readers and through the next step, the
    cotangents of the sums are

        di = e c i (1 - i),  do = d tanh C o (1 - o),  df = e C' f (1 - f),  dc = e i (1 - c^2),

    and dH' = R^T (di, do, df, dc), dC' = e f, dx = W^T (di, do, df, dc).
    Source: Hochreiter & Schmidhuber 1997 and, for f, Gers et al. 2000.
    """
    _refuse_variants(step, ["Sigmoid", "Tanh", "Tanh"])
    if step.input(7) or step.attribute("input_forget", 0):
        raise step.refusal("it has peepholes or coupled gates; use the plain cell, as in torch")
    return _over_directions(step, _through_lstm)


def _through_gru(layer: Direction) -> Term:
    before = layer.before(layer.states(), layer.initial(5))
    (zx, zh), (rx, rh), (nx, q) = layer.sums(before)
    z, r = (zx + zh).to("Sigmoid"), (rx + rh).to("Sigmoid")
    n = (nx + r * q).to("Tanh")
    by_n = (1.0 - z) * (1.0 - n * n)  # dn / d
    by_z = (before - n) * (z * (1.0 - z))
    by_r = by_n * q * (r * (1.0 - r))
    slopes = joined([by_z, by_r, by_n * r])
    weights = layer.weights(2)

    def rule(turn: Turn, states: Sequence[str], elements: Sequence[str]) -> States:
        (from_next,), (of_readers, slope, kept) = states, elements
        d = turn.add("Add", [from_next, of_readers])
        sums = turn.add("Mul", [turn.add("Concat", [d, d, d], axis=-1), slope])
        back = turn.add("MatMul", [sums, weights.name])
        return [turn.add("Add", [turn.add("Mul", [d, kept]), back])], [d]

    (d,) = layer.scanned(
        rule, [layer.final_cotangent(1)], [layer.cotangent(), slopes, z], against=True
    )
    return joined([d * by_z, d * by_r, d * by_n])


def _through_lstm(layer: Direction) -> Term:
    before = layer.before(layer.states(), layer.initial(5))
    i, o, f, c = (read + kept for read, kept in layer.sums(before))
    i, o, f, c = i.to("Sigmoid"), o.to("Sigmoid"), f.to("Sigmoid"), c.to("Tanh")

    def cell(turn: Turn, states: Sequence[str], elements: Sequence[str]) -> States:
        (past,), (forget, new) = states, elements
        following = turn.add("Add", [turn.add("Mul", [past, forget]), new])
        return [following], [following]

    first_cell = layer.initial(6)
    (cells,) = layer.scanned(cell, [first_cell], [f, i * c], against=False)
    past, bent = layer.before(cells, first_cell), cells.to("Tanh")
    slopes = joined(
        [
            c * (i * (1.0 - i)),
            bent * (o * (1.0 - o)),
            past * (f * (1.0 - f)),
            i * (1.0 - c * c),
        ]
    )
    weights = layer.weights(2)

    def rule(turn: Turn, states: Sequence[str], elements: Sequence[str]) -> States:
        (state, cell), (of_readers, to_cell, slope, forget) = states, elements
        d = turn.add("Add", [state, of_readers])
        e = turn.add("Add", [cell, turn.add("Mul", [d, to_cell])])
        sums = turn.add("Mul", [turn.add("Concat", [e, d, e, e], axis=-1), slope])
        back = turn.add("MatMul", [sums, weights.name])
        return [back, turn.add("Mul", [e, forget])], [sums]

    ends = [layer.final_cotangent(1), layer.final_cotangent(2)]
    to_cell = o * (1.0 - bent * bent)
    (sums,) = layer.scanned(rule, ends, [layer.cotangent(), to_cell, slopes, f], against=True)
    return sums


def _over_directions(step: Step, through: Callable[[Direction], Term]) -> Cotangents:
    """dL/dx = (dL/d(W x)) W, (L, N, I), added up over the directions."""
    parts: list[Term] = []
    for number, from_end in enumerate(_READ_FROM_END[step.attribute("direction", "forward")]):
        layer = Direction(step, number, from_end)
        product = step.add("MatMul", [through(layer).name, layer.weights(1).name])
        parts.append(Term(step, product))
    return {0: (parts[0] if len(parts) == 1 else parts[0] + parts[1]).name}


def _refuse_variants(step: Step, activations: Sequence[str]) -> None:
    directions = len(_READ_FROM_END[step.attribute("direction", "forward")])
    stated = [name.decode() for name in step.attribute("activations", [])]
    if stated and stated != [*activations] * directions:
        raise step.refusal(f"its activations are {stated}; only {[*activations]} are known")
    if step.attribute("clip", None) is not None or step.attribute("layout", 0):
        raise step.refusal("clip and layout=1 are not known; export without them")
    if step.input(4):
        raise step.refusal("sequence_lens is not known; read the last own step off all states")
    if step.wanted != {0}:
        raise step.refusal("only the sequence it reads may depend on the wanted tensor")
    if not step.y:
        raise step.refusal("it must give the states of all steps, its first output, too")
