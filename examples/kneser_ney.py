"""An interpolated Kneser-Ney n-gram model, the baseline of a neural language model.

Paper: Kneser and Ney 1995; interpolated as in Chen and Goodman 1998, section 3 (equation 4.34 of
the report TR-10-98).
"""

import collections
import math

import numpy as np


class KneserNey:
    """p_n(w | h) = max(c(h w) - d, 0) / c(h) + d N1+(h .) / c(h) * p_{n-1}(w | h').

    Below the highest order, c is the number of different tokens before an n-gram. The lowest order
    is interpolated with 1 / V. The discount of an order is n1 / (n1 + 2 n2), where n1 and n2 are
    the numbers of n-grams that occur once and twice.

    Args:
        texts: sequences of ids.
        vocab_size: V.
        order: n, by default 5.
    """

    def __init__(self, texts, vocab_size, order=5):
        self.order, self.vocab_size = order, vocab_size
        grams = {n: collections.Counter() for n in range(1, order + 1)}
        for text in texts:
            text = tuple(map(int, text))
            for n in range(1, order + 1):
                # At its beginning a text has no longer context, so these n-grams are complete.
                ends = range(n, len(text) + 1)
                grams[n].update(text[end - n : end] for end in ends)
        self._levels = []
        for n in range(1, order + 1):
            counts = grams[n]
            if n < order:
                before = collections.Counter(gram[1:] for gram in grams[n + 1])
                # An n-gram at the beginning of a text has no token before it and keeps its count.
                counts = {gram: before.get(gram) or count for gram, count in counts.items()}
            once = sum(count == 1 for count in counts.values())
            twice = sum(count == 2 for count in counts.values())
            totals, kinds = collections.Counter(), collections.Counter()
            for gram, count in counts.items():
                totals[gram[:-1]] += count
                kinds[gram[:-1]] += 1
            discount = once / max(once + 2 * twice, 1)
            self._levels.append((counts, totals, kinds, discount))

    def log_probabilities(self, text):
        """ln p of each token of a text except the first, given the tokens before it."""
        text = tuple(map(int, text))
        return np.array([self._log_p(text[:place], text[place]) for place in range(1, len(text))])

    def _log_p(self, context, token):
        p = 1.0 / self.vocab_size
        for n, (counts, totals, kinds, discount) in enumerate(self._levels, 1):
            if n > len(context) + 1:
                break
            history = context[len(context) - n + 1 :]
            total = totals.get(history, 0)
            if not total:
                break
            count = counts.get((*history, token), 0)
            p = max(count - discount, 0.0) / total + discount * kinds[history] / total * p
        return math.log(p)
