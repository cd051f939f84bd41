"""Times functions side by side, and measures the peak memory of each in a process of its own.

What is compared lives in one process and takes turns, so that a noisy neighbour or a clock that
falls hits every side alike; who goes first changes from round to round. Ratios are taken within a
round. Memory is the high-water mark of the resident set (VmHWM) of a fresh process that runs one
side alone; every side's process imports the same modules, so that their difference is the models'.

No benchmark itself: the others call `run`.
"""

import dataclasses
import gc
import json
import logging
import statistics
import subprocess
import sys
import time

from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 20, "How often each side is timed.", lower_bound=2)
flags.DEFINE_integer("warmup", 2, "Calls of each side before the first timed one.", lower_bound=1)
flags.DEFINE_bool("memory", True, "Whether to measure peak memory, each side in a fresh process.")
flags.DEFINE_string("only_case", None, "Runs this case alone.")
flags.DEFINE_list("leave_out", [], "Peers, or sides such as KerasHub/graph, that do not run.")
flags.DEFINE_string("only_side", None, "Set by the parent: prints the peak memory of this side.")

MEMORY_CALLS = 3


@dataclasses.dataclass
class Case:
    """One comparison.

    Attributes:
        sides: (peer, setting) -> a function without arguments that builds the side and returns
            what is to be timed. The first peer is the one that ratios speak of.
        amount: what one call gets through, in `unit`.
        unit: such as `"tokens"`.
        calls: calls in one timing, for what is too short to be timed alone.
        memory: whether the peak memory says something.
    """

    sides: dict
    amount: float
    unit: str
    calls: int = 1
    memory: bool = True


def alternate(functions, rounds, warmup=1, calls=1):
    """name -> function to name -> seconds a call, one number a round."""
    names = list(functions)
    for name in names:
        for _ in range(warmup):
            functions[name]()
    seconds = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            for _ in range(calls):
                functions[name]()
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def quartiles(values):
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive")


def resident_mb(field="VmHWM"):
    """Resident memory of this process in MB: `"VmHWM"` the peak, `"VmRSS"` now."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6


def run_child(*arguments):
    """Runs this very command with further flags; the JSON object that it prints last."""
    spec = sys.modules["__main__"].__spec__
    program = [sys.argv[0]] if spec is None else ["-m", spec.name]
    command = [sys.executable, *program, *sys.argv[1:], *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(cases, impossible=()):
    """Times the cases one after the other and prints a table of each.

    Args:
        cases: name -> `Case`.
        impossible: peers and sides that cannot run here, as of the flag `--leave_out`.
    """
    # TensorFlow warns of functions that are made in a loop; here each side is meant to be its own.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if FLAGS.only_case:
        if FLAGS.only_case not in cases:
            raise ValueError(f"No such case: {FLAGS.only_case!r}. There are {list(cases)}.")
        cases = {FLAGS.only_case: cases[FLAGS.only_case]}
    _leave_out(cases, {*FLAGS.leave_out, *impossible})
    for name, case in cases.items():
        if FLAGS.only_side:
            _peak_alone(case)
            continue
        steps = {side: make() for side, make in case.sides.items()}
        seconds = alternate(steps, FLAGS.rounds, FLAGS.warmup, case.calls)
        steps.clear()
        gc.collect()
        _print_times(name, case, seconds)
        best = _best_sides(seconds)
        _print_ratios(seconds, best)
        if FLAGS.memory and case.memory:
            _print_memory(name, best)


def _leave_out(cases, names):
    sides = {side for case in cases.values() for side in case.sides}
    if unknown := names - {peer for peer, _ in sides} - {"/".join(side) for side in sides}:
        raise ValueError(f"No such sides to leave out: {sorted(unknown)}. There are {sides}.")
    for case in cases.values():
        for side in list(case.sides):
            if side[0] in names or "/".join(side) in names:
                del case.sides[side]


def _peak_alone(case):
    step = case.sides[tuple(FLAGS.only_side.split("/"))]()
    for _ in range(MEMORY_CALLS):
        step()
    print(json.dumps({"peak_mb": resident_mb()}))


def _best_sides(seconds):
    """peer -> its fastest side."""
    best = {}
    for side, values in seconds.items():
        peer = side[0]
        if peer not in best or statistics.median(values) < statistics.median(seconds[best[peer]]):
            best[peer] = side
    return best


def _print_times(name, case, seconds):
    print(f"\n{name}: {case.amount:g} {case.unit} a call, {FLAGS.rounds} rounds")
    print(f"{'side':<22}{'median ms':>11}{'quartiles':>21}{case.unit + '/s':>14}")
    for (peer, setting), values in seconds.items():
        low, median, high = quartiles(values)
        spread = f"{low * 1e3:.3f} .. {high * 1e3:.3f}"
        speed = case.amount / median
        print(f"{f'{peer}, {setting}':<22}{median * 1e3:>11.3f}{spread:>21}{speed:>14,.0f}")


def _print_ratios(seconds, best):
    """How many times as fast the first peer is, setting by setting and best against best."""
    first, *others = best
    settings = dict.fromkeys(setting for _, setting in seconds)
    for other in others:
        pairs = {setting: ((first, setting), (other, setting)) for setting in settings}
        pairs["best settings"] = (best[first], best[other])
        for title, (mine, theirs) in pairs.items():
            if mine not in seconds or theirs not in seconds:
                continue
            rounds = [b / a for a, b in zip(seconds[mine], seconds[theirs], strict=True)]
            low, ratio, high = quartiles(rounds)
            names = f" ({mine[1]}, {theirs[1]})" if title == "best settings" else ""
            print(
                f"{title}{names}: {first} is {ratio:.2f} times as fast as {other} "
                f"(quartiles {low:.2f} .. {high:.2f})",
                flush=True,
            )


def _print_memory(name, best):
    peaks = {}
    for peer, side in best.items():
        child = run_child(f"--only_case={name}", f"--only_side={'/'.join(side)}")
        peaks[peer] = child["peak_mb"]
        print(f"peak memory of {peer}, {side[1]}: {peaks[peer]:,.0f} MB", flush=True)
    first, *others = peaks
    for other in others:
        print(f"peak memory: {first} takes {peaks[first] / peaks[other]:.2f} times {other}'s")
