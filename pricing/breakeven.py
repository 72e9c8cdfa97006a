"""Break-even: does guidance pay? The algebra, as pure functions over exact numbers.

The letters: I input tokens of the teacher, P prompt tokens of the student, g guidance tokens, L tokens of the whole
answer; p_in, p_out what the teacher's tokens cost, q_in, q_out what the student's do. The teacher alone costs
F = p_in*I + p_out*L, the guidance G = p_in*I + p_out*g, the student S = q_in*(P + g) + q_out*(L - g): it reads the
prompt and the guidance and writes the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from pricing.money import Money
from pricing.price import HOUR, MILLION, Price


@dataclass(frozen=True, slots=True)
class Rates:
    """What teacher and student charge: `Money` per million tokens."""

    teacher_in: Money
    teacher_out: Money
    student_in: Money
    student_out: Money

    @classmethod
    def of(cls, teacher: Price, student: Price) -> Rates | None:
        """The rates of two prices; None when one of the four is unknown.

        A student that is priced by the hour has no rates until its speed is measured: see `per_token`. Cached
        input counts as other input: the teacher's input price cancels out of the break-even anyway.
        """
        if teacher.input is None or teacher.output is None or student.input is None or student.output is None:
            return None
        return cls(teacher.input, teacher.output, student.input, student.output)


def per_token(price: Price, *, input_per_second: float, output_per_second: float) -> Price | None:
    """The price of a machine as a price of its tokens, at measured speeds (tokens per second of all its requests).

    rate = per_hour / 3600 / tokens per second. 2 dollars an hour at 10,000 and 500 tokens per second are 0.056 and
    1.11 dollars per million. Idle time is not in it. None when `price` has no `per_hour`; ValueError when a speed
    is not above 0.
    """
    if not (input_per_second > 0 and output_per_second > 0):
        raise ValueError("a speed must be above 0 tokens per second")
    if price.per_hour is None:
        return None
    second = Fraction(price.per_hour.nano, HOUR) * MILLION
    rates = [Money(round(second / Fraction(str(speed)))) for speed in (input_per_second, output_per_second)]
    row = f"{price.row} at {input_per_second:g} and {output_per_second:g} tokens per second".strip()
    return replace(price, input=rates[0], output=rates[1], per_hour=None, row=row)


def teacher_alone(rates: Rates, *, input_tokens: int, length: int) -> Fraction:
    """F = p_in*I + p_out*L, in nano-dollars and not rounded."""
    return Fraction(rates.teacher_in.nano * input_tokens + rates.teacher_out.nano * length, MILLION)


def guided(rates: Rates, *, input_tokens: int, prompt: int, guidance: int, length: int) -> Fraction:
    """G + S = p_in*I + p_out*g + q_in*(P + g) + q_out*(L - g), in nano-dollars and not rounded.

    An answer that is no longer than the guidance is the teacher's alone: L replaces g and there is no student.
    """
    if length <= guidance:
        return teacher_alone(rates, input_tokens=input_tokens, length=length)
    student = rates.student_in.nano * (prompt + guidance) + rates.student_out.nano * (length - guidance)
    return teacher_alone(rates, input_tokens=input_tokens, length=guidance) + Fraction(student, MILLION)


def break_even_length(rates: Rates, *, prompt: int, guidance: int, again: bool = False) -> Fraction | None:
    """The answer length above which guidance saves money: g + (P + g) * q_in / (p_out - q_out). None: never.

    Never when q_out >= p_out. The teacher's input price and its cache discount cancel out: they set how much is
    saved, not whether. `again`: a hint, after which the student writes the whole answer, and g * q_out more.
    """
    gain = rates.teacher_out.nano - rates.student_out.nano
    if gain <= 0:
        return None
    twice = guidance * rates.student_out.nano if again else 0
    return guidance + Fraction((prompt + guidance) * rates.student_in.nano + twice, gain)


def saves(rates: Rates, *, prompt: int, guidance: int, length: int) -> bool:
    """True iff guidance and student cost less than the teacher alone: L > g + (P + g) * q_in / (p_out - q_out)."""
    even = break_even_length(rates, prompt=prompt, guidance=guidance)
    return even is not None and length > even


def needed_accept_rate(
    teacher: Price, *, input_tokens: int, guidance: int, length: int, student: Money = Money.ZERO
) -> Fraction | None:
    """Hint, then escalate what is not accepted: pays iff the share accepted a > (G + S) / F.

    For G + S + (1 - a)*F < F. `student` is S, what the student's try and its checks cost. Above 1: never. None
    when the teacher's price is unknown or F is 0, so that there is nothing to save.
    """
    if teacher.input is None or teacher.output is None:
        return None
    rates = Rates(teacher.input, teacher.output, Money.ZERO, Money.ZERO)
    alone = teacher_alone(rates, input_tokens=input_tokens, length=length)
    hint = teacher_alone(rates, input_tokens=input_tokens, length=guidance) + student.nano
    return hint / alone if alone else None


def tolerable_fallbacks(cost_ratio: float) -> float:
    """The share of fallbacks f below which guidance pays: f < 1 - r, for r + f < 1.

    `cost_ratio` r is what guidance and student cost over what the teacher alone costs; a fallback adds the whole
    teacher. Not above 0: never.
    """
    return 1 - cost_ratio


def pays_per_correct(cost_ratio: float, fallbacks: float, *, accuracy_guided: float, accuracy_teacher: float) -> bool:
    """True iff a correct answer costs less than from the teacher alone: r + f < accuracy_guided / accuracy_teacher.

    The accuracy guided is that of the whole policy, fallbacks included.
    """
    return (cost_ratio + fallbacks) * accuracy_teacher < accuracy_guided
