"""Reference implementations in NumPy, written from the papers, in float64.

They are slow and plain on purpose: an oracle should be obviously right.

Shape letters: B batch, T target length, S source length, N query heads, K key/value heads,
H head_dim (Hv: of the values), D d_model, F ffn_dim, V vocab.
"""

import math

import numpy as np


def attention(query, key, value, mask=None, bias=None, scale=None, causal=False):
    """softmax(query key^T * scale + bias) value (Vaswani et al. 2017, eq. 1).

    query [B, T, N, H], key [B, S, K, H], value [B, S, K, Hv] -> [B, T, N, Hv], [B, N, T, S].
    Query head n reads key/value head n // (N // K) (Ainslie et al. 2023, section 2.2).
    mask (True: may attend) and bias (added to the scores) broadcast to [B, N, T, S].
    causal: query t sees the keys s <= t. A query that may attend nowhere gives zeros.
    """
    query, key, value = _float64(query), _float64(key), _float64(value)
    (b_, t_, n_, h_), (s_, k_) = query.shape, key.shape[1:3]
    if n_ % k_:
        raise ValueError(f"{n_} query heads cannot share {k_} key/value heads")
    scale = 1.0 / math.sqrt(h_) if scale is None else scale
    shape = (b_, n_, t_, s_)
    mask = np.broadcast_to(True if mask is None else np.asarray(mask, bool), shape)
    bias = np.broadcast_to(0.0 if bias is None else _float64(bias), shape)
    weights = np.zeros(shape)
    output = np.zeros((b_, t_, n_, value.shape[-1]))
    for b, n, t in np.ndindex(b_, n_, t_):
        k = n // (n_ // k_)
        scores = {}
        for s in range(s_):
            if mask[b, n, t, s] and (s <= t or not causal):
                scores[s] = query[b, t, n] @ key[b, s, k] * scale + bias[b, n, t, s]
        highest = max(scores.values(), default=-np.inf)
        if highest == -np.inf:
            continue
        total = sum(np.exp(score - highest) for score in scores.values())
        for s, score in scores.items():
            weights[b, n, t, s] = np.exp(score - highest) / total
            output[b, t, n] += weights[b, n, t, s] * value[b, s, k]
    return output, weights


def multi_head_attention(
    query_in, value_in, key_in=None, weights=None, mask=None, bias=None, causal=False
):
    """Concat(head_1 .. head_N) wo + bo, head_n = attention of projections.

    Vaswani et al. 2017, section 3.2.2. query_in [B, T, D], value_in [B, S, Dv], key_in
    [B, S, Dk] (default: value_in) -> [B, T, Dout]. weights: wq [D, N, H], wk [Dk, K, H],
    wv [Dv, K, Hv], wo [N, Hv, Dout]; bq, bk, bv, bo of the outputs' shapes, or None.
    """
    key_in = value_in if key_in is None else key_in
    query = _add(np.einsum("btd,dnh->btnh", _float64(query_in), weights["wq"]), weights.get("bq"))
    key = _add(np.einsum("bsd,dkh->bskh", _float64(key_in), weights["wk"]), weights.get("bk"))
    value = _add(np.einsum("bsd,dkh->bskh", _float64(value_in), weights["wv"]), weights.get("bv"))
    heads, _ = attention(query, key, value, mask=mask, bias=bias, causal=causal)
    return _add(np.einsum("btnh,nhd->btd", heads, weights["wo"]), weights.get("bo"))


def sinusoid(length, depth, layout="interleaved", offset=0, max_wavelength=10000.0):
    """Sinusoidal positions offset .. offset + length - 1 -> [length, depth].

    "interleaved": sin(pos * f_i) at column 2i and cos(pos * f_i) at 2i + 1, with
    f_i = max_wavelength^(-2i / depth) (Vaswani et al. 2017, section 3.5).
    "halves": the same numbers as [sines | cosines] (the Marian models).
    "tensor2tensor": [sines | cosines], f_i = exp(-i log(max_wavelength) / (depth / 2 - 1)),
    so the wavelengths run from 2 pi to exactly max_wavelength * 2 pi (Vaswani et al. 2018,
    the Tensor2Tensor library). At depth 2 the divisor is 1.
    """
    if layout not in ("interleaved", "halves", "tensor2tensor"):
        raise ValueError(f"unknown layout: {layout!r}")
    if layout != "interleaved" and depth % 2:
        raise ValueError(f"the halves need an even depth, not {depth}")
    table = np.zeros((length, depth))
    for row in range(length):
        for column in range(depth):
            if layout == "interleaved":
                i, is_sine = column // 2, column % 2 == 0
            else:
                i, is_sine = column % (depth // 2), column < depth // 2
            if layout == "tensor2tensor":
                frequency = math.exp(-i * math.log(max_wavelength) / max(1.0, depth / 2 - 1))
            else:
                frequency = max_wavelength ** (-2.0 * i / depth)
            angle = (offset + row) * frequency
            table[row, column] = math.sin(angle) if is_sine else math.cos(angle)
    return table


def layer_norm(x, gamma, beta, epsilon):
    """(x - mean) / sqrt(var + epsilon) * gamma + beta, last axis (Ba et al. 2016, eq. 3, 4)."""
    x = _float64(x)
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * _float64(gamma) + _float64(beta)


def rms_norm(x, gamma, epsilon):
    """x / sqrt(mean(x^2) + epsilon) * gamma, last axis (Zhang and Sennrich 2019, eq. 4)."""
    x = _float64(x)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * _float64(gamma)


def feed_forward(x, kind, weights):
    """The feed-forward network: x [.., D] -> [.., D] through F hidden units.

    "relu", "gelu", "gelu_tanh": act(x w1 + b1) w2 + b2 (Vaswani et al. 2017, eq. 2).
    "glu", "swiglu", "geglu", "reglu": (act(x wg + bg) * (x w1 + b1)) w2 + b2 (Shazeer 2020,
    eq. 5 and 6, there without biases). Biases may be None.
    """
    gates = {"glu": "sigmoid", "swiglu": "swish", "geglu": "gelu", "reglu": "relu"}
    hidden = _add(_float64(x) @ _float64(weights["w1"]), weights.get("b1"))
    if kind in gates:
        gate = _add(_float64(x) @ _float64(weights["wg"]), weights.get("bg"))
        hidden = _activation(gate, gates[kind]) * hidden
    else:
        hidden = _activation(hidden, kind)
    return _add(hidden @ _float64(weights["w2"]), weights.get("b2"))


def rotary(x, offset=0, max_wavelength=10000.0, layout="halves"):
    """Rotate pair i of x [B, T, N, H] by pos * max_wavelength^(-2i / H), i = 0 .. H / 2 - 1.

    Su et al. 2021, eq. 34: (a, b) -> (a cos - b sin, b cos + a sin), pos = offset + t.
    "interleaved" pairs (2i, 2i + 1), as in the paper; "halves" pairs (i, i + H / 2), as in
    GPT-NeoX and Llama.
    """
    x = _float64(x)
    h_ = x.shape[-1]
    if layout not in ("halves", "interleaved"):
        raise ValueError(f"unknown layout: {layout!r}")
    if h_ % 2:
        raise ValueError(f"pairs need an even head_dim, not {h_}")
    output = np.zeros_like(x)
    for t in range(x.shape[1]):
        for i in range(h_ // 2):
            first, second = (i, i + h_ // 2) if layout == "halves" else (2 * i, 2 * i + 1)
            angle = (offset + t) * max_wavelength ** (-2.0 * i / h_)
            a, b = x[:, t, :, first], x[:, t, :, second]
            output[:, t, :, first] = a * math.cos(angle) - b * math.sin(angle)
            output[:, t, :, second] = b * math.cos(angle) + a * math.sin(angle)
    return output


def label_smoothed_cross_entropy(labels, logits, smoothing=0.0, pad_id=0):
    """Mean of -sum_v q_v log softmax(logits)_v over the labels != pad_id -> a scalar.

    labels [B, T], logits [B, T, V]; q = (1 - smoothing) onehot(label) + smoothing / V
    (Szegedy et al. 2016, section 7). 0.0 where every label is padding.
    """
    labels, logits = np.asarray(labels), _float64(logits)
    losses = []
    for b, t in np.ndindex(*labels.shape):
        if labels[b, t] == pad_id:
            continue
        row = logits[b, t]
        log_probs = row - row.max() - math.log(np.exp(row - row.max()).sum())
        loss = -(1.0 - smoothing) * log_probs[labels[b, t]]
        if smoothing:
            loss -= smoothing / len(row) * log_probs.sum()
        losses.append(loss)
    return sum(losses) / len(losses) if losses else 0.0


def inverse_sqrt_schedule(step, d_model, warmup_steps):
    """d_model^-0.5 min(step^-0.5, step warmup^-1.5), step from 1 (Vaswani et al. 2017, eq. 3)."""
    return d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)


def linear_warmup_decay(step, peak, warmup_steps, total_steps):
    """Linear from 0 to peak over the warmup, then to 0 at total_steps (Devlin et al. 2019, A.2)."""
    if step < warmup_steps:
        return step / warmup_steps * peak
    if step >= total_steps:
        return 0.0
    return peak * (total_steps - step) / (total_steps - warmup_steps)


def length_penalty(length, alpha):
    """((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14)."""
    return ((5.0 + length) / 6.0) ** alpha


def greedy(next_log_probs, start_id, end_id, max_length):
    """The most probable token at each step, up to and with end_id -> the list of ids after start.

    next_log_probs(prefix tuple, start_id first) -> [V]. Ties go to the lower id.
    """
    ids = []
    while len(ids) < max_length and end_id not in ids:
        ids.append(int(np.argmax(next_log_probs((start_id, *ids)))))
    return ids


def exhaustive_search(next_log_probs, start_id, end_id, max_length, alpha, n_best):
    """The n_best of all sequences, best first -> [(ids after start, score)].

    A sequence ends with its first end_id, or has max_length tokens and no end_id. score =
    log P(sequence) / length_penalty(number of tokens with end_id, alpha) (Wu et al. 2016,
    eq. 14, without the coverage penalty).
    """
    found = []

    def visit(ids, log_prob):
        if len(ids) == max_length or (ids and ids[-1] == end_id):
            found.append((ids, log_prob / length_penalty(len(ids), alpha)))
            return
        for token, token_log_prob in enumerate(next_log_probs((start_id, *ids))):
            visit((*ids, token), log_prob + float(token_log_prob))

    visit((), 0.0)
    return _best(found)[:n_best]


def beam_search(next_log_probs, start_id, end_id, max_length, beam_size, alpha, n_best):
    """Beam search with finished hypotheses set aside -> n_best [(ids after start, score)].

    Each step ranks the extensions of all live beams by log probability and takes the best
    2 beam_size, of a single beam the best alone: it is greedy search. Of these, the ones that end
    finish, with score log P / length_penalty (Wu et al. 2016, section 7), and the best beam_size
    others live on; of the finished the best beam_size stay. The search stops when no live beam
    can beat the worst of a full finished set: log P only falls, so its score is at most
    log P / length_penalty(max_length), for alpha >= 0. Beams still alive at max_length finish
    there. Ties go to the earlier beam, then to the lower id.
    """
    if alpha < 0.0:
        raise ValueError("the stopping rule needs alpha >= 0")
    live, finished = [((), 0.0)], []
    for _ in range(max_length):
        candidates = []
        for ids, log_prob in live:
            for token, token_log_prob in enumerate(next_log_probs((start_id, *ids))):
                candidates.append(((*ids, token), log_prob + float(token_log_prob)))
        live = []
        for ids, log_prob in _best(candidates)[: 1 if beam_size == 1 else 2 * beam_size]:
            if ids[-1] == end_id:
                finished.append((ids, log_prob / length_penalty(len(ids), alpha)))
            elif len(live) < beam_size:
                live.append((ids, log_prob))
        finished = _best(finished)[:beam_size]
        if not live:
            break
        attainable = live[0][1] / length_penalty(max_length, alpha)
        if len(finished) == beam_size and finished[-1][1] >= attainable:
            break
    for ids, log_prob in live:
        if len(ids) == max_length:
            finished.append((ids, log_prob / length_penalty(max_length, alpha)))
    return _best(finished)[:n_best]


def top_k_filter(probs, k):
    """The k most probable tokens, renormalized (Fan et al. 2018). Ties: the lower id."""
    return _keep(probs, np.argsort(-_float64(probs), kind="stable")[:k])


def top_p_filter(probs, p):
    """The smallest set of most probable tokens with mass >= p, renormalized.

    Holtzman et al. 2020, eq. 2 and 3. At least one token stays; ties go to the lower id.
    """
    kept, mass = [], 0.0
    for token in np.argsort(-_float64(probs), kind="stable"):
        kept.append(token)
        mass += float(probs[token])
        if mass >= p:
            break
    return _keep(probs, kept)


def adamw_step(param, grad, m, v, step, lr, beta1, beta2, epsilon, weight_decay):
    """One step of Adam with decoupled weight decay, step from 1 -> (param, m, v).

    Loshchilov and Hutter 2019, algorithm 2, with the decay times lr; the order of the bias
    correction and of epsilon is that at the end of section 2 of Kingma and Ba 2015:
    param - lr weight_decay param - lr sqrt(1 - beta2^step) / (1 - beta1^step) m / (sqrt(v) + eps).
    """
    param, grad = _float64(param), _float64(grad)
    m = beta1 * _float64(m) + (1.0 - beta1) * grad
    v = beta2 * _float64(v) + (1.0 - beta2) * grad**2
    rate = lr * math.sqrt(1.0 - beta2**step) / (1.0 - beta1**step)
    return param - lr * weight_decay * param - rate * m / (np.sqrt(v) + epsilon), m, v


def _float64(x):
    return np.asarray(x, np.float64)


def _add(x, bias):
    return x if bias is None else x + _float64(bias)


def _activation(x, name):
    """gelu: x Phi(x) and its tanh form (Hendrycks and Gimpel 2016); swish: x sigmoid(x)."""
    sigmoid = 0.5 * (1.0 + np.tanh(0.5 * x))  # 1 / (1 + exp(-x))
    if name == "relu":
        return np.maximum(x, 0.0)
    if name == "sigmoid":
        return sigmoid
    if name == "swish":
        return x * sigmoid
    if name == "gelu":
        return 0.5 * x * (1.0 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2.0)))
    if name == "gelu_tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    raise ValueError(f"unknown kind: {name!r}")


def _best(hypotheses):
    """(ids, score) pairs, the highest score first; equal ones keep their order."""
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis[1])


def _keep(probs, tokens):
    """probs with every other token at 0, divided by what is left."""
    kept = np.zeros(len(probs))
    for token in tokens:
        kept[token] = probs[token]
    return kept / kept.sum()
