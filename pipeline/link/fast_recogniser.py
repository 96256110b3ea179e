"""Find the sentences and entities that a small convolutional pipeline of spaCy finds, four times as fast.

spaCy's networks read one batch of texts layer by layer, and then decide on one token after another.
Here the same weights give the same answers by other means:

- each distinct word is embedded once, by spaCy's own layers, and remembered;
- products are large ones, with a layer's pieces apart, so that their maximum is fast;
- outside of an entity a decision depends on the token alone, so all tokens are decided at once; only
  tokens behind a possible beginning are decided one after the other, all beginnings side by side.

`FastPipeline.of` says which pipelines that serves: `senter` (where there is one) and then `ner`, as
spaCy makes them, behind spaCy's own tokeniser, of the architectures of its small models
(`MultiHashEmbed`, `MaxoutWindowEncoder`, `TransitionBasedParser` for entities, `Tagger` for
sentences). All others are left to spaCy.

Letters in the names of arrays: n tokens, m beginnings, w a vector's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from schemas.array_types import F32, I64, U64, Bools

# Tokens whose arrays fit into a core's cache together.
GROUP_TOKENS = 2048
# Distinct words that are remembered: 40 MB for vectors of 96.
MAX_WORDS = 100_000
VARIANCE_FLOOR = np.float32(1e-8)
EXTRACTED, EMBEDDED, MIXED = 0, 2, 3
# Features of a state: the token, the first token of the open entity, the token before.
NUM_FEATURES = 3
# Labels of `senter`: inside, start.
SENTENCE_LABELS = ("I", "S")
# Attributes that the tokeniser alone decides; others may come from a component.
OWN_ATTRIBUTES = (
    "ORTH",
    "LOWER",
    "NORM",
    "PREFIX",
    "SUFFIX",
    "SHAPE",
    "SPACY",
    "IS_SPACE",
    "LENGTH",
)
SPACY_TOKENISER = "spacy.tokenizer.Tokenizer"
FACTORIES = (["ner"], ["senter", "ner"])


class UnsupportedError(ValueError):
    """Say that a pipeline is built in another way than this module can compute."""


def _only(model: Any, name: str) -> Any:  # noqa: ANN401 - thinc's models have no types
    """Return the one layer of this name."""
    found = [node for node in model.walk() if node.name == name]
    if len(found) != 1:
        raise UnsupportedError(f"{len(found)} layers are called {name}")
    return found[0]


@dataclass(frozen=True, slots=True)
class _WindowLayer:
    """Hold one convolution: a window of vectors to a vector, by a maximum of pieces, normalised."""

    window: int
    # (window · w, pieces · w), pieces one after the other.
    weights: F32
    bias: F32
    gain: F32
    shift: F32

    @classmethod
    def of(cls, layer: Any) -> _WindowLayer:  # noqa: ANN401
        """Read the weights of a residual layer."""
        maxout, norm = _only(layer, "maxout"), _only(layer, "layernorm")
        width, pieces, num_inputs = maxout.get_param("W").shape
        weights = maxout.get_param("W").transpose(2, 1, 0).reshape(num_inputs, pieces * width)
        return cls(
            window=_only(layer, "expand_window").attrs["window_size"],
            weights=np.ascontiguousarray(weights, np.float32),
            bias=maxout.get_param("b").T.reshape(-1).astype(np.float32),
            gain=norm.get_param("G").astype(np.float32),
            shift=norm.get_param("b").astype(np.float32),
        )

    def __call__(self, vectors: F32) -> F32:
        """Return the vectors, shape (n, w), with what the layer adds."""
        num, width = vectors.shape
        padded = np.zeros((num + 2 * self.window, width), np.float32)
        padded[self.window : self.window + num] = vectors
        columns = np.concatenate(
            [padded[shift : shift + num] for shift in range(2 * self.window + 1)], axis=1
        )
        products = columns @ self.weights
        products += self.bias
        best = _maximum_of_pieces(products, width)
        best -= best.mean(axis=1, keepdims=True)
        variance = np.einsum("ij,ij->i", best, best) / np.float32(width) + VARIANCE_FLOOR
        best *= (1 / np.sqrt(variance))[:, None]
        best *= self.gain
        best += self.shift
        best += vectors
        return best


def _maximum_of_pieces(products: F32, width: int) -> F32:
    """Return the elementwise maximum of pieces that stand side by side."""
    best = products[:, :width].copy()
    for low in range(width, products.shape[1], width):
        np.maximum(best, products[:, low : low + width], out=best)
    return best


class TokenVectors:
    """Turn tokens into the vectors of a convolutional tok2vec."""

    def __init__(self, tok2vec: Any) -> None:  # noqa: ANN401 - thinc's
        from spacy.attrs import IDS

        embed, encode = tok2vec.get_ref("embed"), tok2vec.get_ref("encode")
        names = [layer.name for layer in embed.layers]
        if len(names) != len(("extract", "ragged", "embed", "mix", "list")) or (
            names[EXTRACTED] != "extract_features"
        ):
            raise UnsupportedError(f"words are embedded by {', '.join(names)}")
        self.columns: tuple[int | str, ...] = tuple(embed.layers[EXTRACTED].attrs["columns"])
        # A pipeline names them by words or by numbers.
        if not set(self.columns) <= {*OWN_ATTRIBUTES, *map(IDS.get, OWN_ATTRIBUTES)}:
            raise UnsupportedError("words are embedded by what a component finds")
        self._embed = embed.layers[EMBEDDED].layers[0]
        self._mix = embed.layers[MIXED].layers[0]
        # The chain of all of them is named after its parts, and has several.
        residuals = [
            node
            for node in encode.walk()
            if node.name.startswith("residual(") and len(node.layers) == 1
        ]
        self._layers = [_WindowLayer.of(layer) for layer in residuals]
        self._pad: int = encode.attrs["pad"]
        if not self._layers or self._pad < sum(layer.window for layer in self._layers):
            raise UnsupportedError("texts of one batch would change each other's vectors")
        self.width = len(self._layers[0].gain)
        self._rows: dict[int, int] = {}
        self._words = np.empty((0, self.width), np.float32)

    def __call__(self, features: Sequence[U64]) -> F32:
        """Return the vectors of the tokens of some texts, shape (n, w), one text after the other.

        Args:
            features: of each text, shape (its tokens, columns).
        """
        words = self._embedded(np.concatenate(features))
        sizes = np.array([len(one) for one in features], np.int64)
        found, low = [np.empty((0, self.width), np.float32)], 0
        for group in _groups(sizes):
            high = low + int(sizes[group].sum())
            found.append(self._encoded(words[low:high], sizes[group]))
            low = high
        return np.concatenate(found)

    def _embedded(self, features: U64) -> F32:
        """Return the vector of each token without its neighbours; every word is computed once."""
        keys = np.zeros(len(features), np.uint64)
        for column in features.T:
            # Multiplied by an odd number, no two values of a column become one.
            keys = keys * np.uint64(0x9E3779B97F4A7C15) + column
        distinct, first, word_of_token = np.unique(keys, return_index=True, return_inverse=True)
        names = distinct.tolist()
        if len(self._rows) + len(names) > MAX_WORDS:
            self._rows = {}
        new = [number for number, name in enumerate(names) if name not in self._rows]
        if new:
            low = len(self._rows)
            self._make_room(low + len(new))
            vectors = self._mix.predict(self._embed.predict(features[first[new]]))
            self._words[low : low + len(new)] = vectors
            self._rows.update({names[number]: low + place for place, number in enumerate(new)})
        rows = np.array([self._rows[name] for name in names], np.int64)
        embedded: F32 = self._words[rows[word_of_token]]
        return embedded

    def _make_room(self, num_words: int) -> None:
        """Double the table where it is too short."""
        if num_words > len(self._words):
            words = np.empty((max(num_words, 2 * len(self._words)), self.width), np.float32)
            words[: len(self._words)] = self._words
            self._words = words

    def _encoded(self, words: F32, sizes: I64) -> F32:
        """Return the vectors of some texts' tokens in their context; texts are held apart by zeros."""
        text_of_token = np.repeat(np.arange(len(sizes)), sizes)
        places = np.arange(len(words)) + self._pad * (text_of_token + 1)
        vectors = np.zeros((len(words) + self._pad * (len(sizes) + 1), self.width), np.float32)
        vectors[places] = words
        for layer in self._layers:
            vectors = layer(vectors)
        encoded: F32 = vectors[places]
        return encoded


def _groups(sizes: I64) -> list[slice]:
    """Return ranges of texts with about so many tokens together that their arrays are small."""
    numbers = np.cumsum(sizes) // GROUP_TOKENS
    bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(sizes)]
    return [slice(low, high) for low, high in zip(bounds, bounds[1:], strict=False) if low < high]


class SentenceFinder:
    """Say which tokens open a sentence, as spaCy's `senter` does."""

    def __init__(self, senter: Any) -> None:  # noqa: ANN401 - spaCy's
        if tuple(senter.labels) != SENTENCE_LABELS or senter.cfg.get("overwrite"):
            raise UnsupportedError("sentences are found in another way")
        self.vectors = TokenVectors(senter.model.get_ref("tok2vec"))
        softmax = senter.model.get_ref("softmax")
        self._weights = np.ascontiguousarray(softmax.get_param("W").T, np.float32)
        self._bias = softmax.get_param("b")

    def __call__(self, features: Sequence[U64]) -> Bools:
        """Return for each token whether it opens a sentence, shape (n,)."""
        scores = self.vectors(features) @ self._weights + self._bias
        opens: Bools = scores.argmax(axis=1) == SENTENCE_LABELS.index("S")
        return opens


@dataclass(frozen=True, slots=True)
class Entities:
    """Hold the entities of some texts: half-open tokens, counted over all texts, and labels."""

    starts: I64
    ends: I64
    labels: list[str]


class EntityFinder:
    """Find the entities that spaCy's `ner` finds by its greedy search."""

    def __init__(self, ner: Any) -> None:  # noqa: ANN401 - spaCy's
        model = ner.model
        if type(model.ops).__name__ != "NumpyOps":
            raise UnsupportedError("the weights lie on another device")
        if ner.cfg["beam_width"] != 1 or ner.postprocesses or model.attrs["unseen_classes"]:
            raise UnsupportedError("the search for entities is no plain greedy one")
        tok2vec, _, linear = model.get_ref("tok2vec").layers
        self.vectors = TokenVectors(tok2vec)
        self._reduce = np.ascontiguousarray(linear.get_param("W").T, np.float32)
        self._reduce_bias = linear.get_param("b")

        lower, upper = model.get_ref("lower"), model.get_ref("upper")
        if not model.attrs["has_upper"] or lower.get_dim("nF") != NUM_FEATURES:
            raise UnsupportedError("states have other features")
        # Of each feature (inputs, pieces · hidden), pieces one after the other.
        num_inputs = lower.get_dim("nI")
        self._lower = [
            np.ascontiguousarray(part.transpose(2, 1, 0).reshape(num_inputs, -1), np.float32)
            for part in lower.get_param("W")
        ]
        pads = [part.T.reshape(-1) for part in lower.get_param("pad")[0]]
        self._bias = lower.get_param("b").T.reshape(-1)
        self._closed_bias = pads[1] + pads[2] + self._bias
        self._num_hidden: int = lower.get_dim("nO")
        self._upper, self._upper_bias = upper.get_param("W"), upper.get_param("b")
        # Not `move_names`, which leaves one out.
        self._read_moves([ner.moves.get_class_name(number) for number in range(ner.moves.n_moves)])

    def _read_moves(self, names: Sequence[str]) -> None:
        """Sort the moves: those of a closed state in their order, and of each label its I and L."""
        moves = [name.partition("-") for name in names]
        # A label is needed but for O.
        closed = [
            number
            for number, (move, _, label) in enumerate(moves)
            if move == "O" or (move in ("B", "U") and label)
        ]
        self._closed_moves = np.array([moves[number][0] for number in closed])
        self._closed_labels = [moves[number][2] for number in closed]
        self._closed_upper = np.ascontiguousarray(self._upper[closed].T, np.float32)
        self._closed_upper_bias = self._upper_bias[closed]
        number_of = {(move, label): number for number, (move, _, label) in enumerate(moves)}
        of_open = [
            [number_of.get((move, label), -1) for move in ("I", "L")]
            for label in self._closed_labels
        ]
        begins = self._closed_moves == "B"
        self._of_open = np.array(of_open, np.int64)
        if (self._of_open[begins] < 0).any():
            raise UnsupportedError("a label can be begun and not be ended")

    def __call__(
        self, features: Sequence[U64], is_space: Bools, opens: Bools, text_ends: I64
    ) -> Entities:
        """Return the entities of some texts, in their order.

        Args:
            features: of each text, shape (its tokens, columns).
            is_space: which tokens are white space, shape (n,): no entity begins there.
            opens: which tokens open a sentence, shape (n,): no entity crosses it.
            text_ends: the token behind each text.
        """
        tokens = self.vectors(features) @ self._reduce + self._reduce_bias
        # No entity goes on behind these.
        is_last = np.append(opens[1:], True)
        is_last[text_ends[text_ends > 0] - 1] = True

        own = tokens @ self._lower[0]
        hidden = _maximum_of_pieces(own + self._closed_bias, self._num_hidden)
        scores = hidden @ self._closed_upper + self._closed_upper_bias
        begins, units = self._closed_moves == "B", self._closed_moves == "U"
        scores[np.ix_(is_space | is_last, begins)] = -np.inf
        scores[np.ix_(is_space, units)] = -np.inf
        moves = scores.argmax(axis=1) if len(scores) else np.empty(0, np.int64)

        starts = np.flatnonzero(self._closed_moves[moves] != "O")
        ends = starts + 1
        is_begun = self._closed_moves[moves[starts]] == "B"
        ends[is_begun] = self._ends(tokens, own, is_last, starts[is_begun], moves)
        return self._first_ones(starts, ends, moves)

    def _ends(self, tokens: F32, own: F32, is_last: Bools, starts: I64, moves: I64) -> I64:
        """Return the token behind the entity that begins at each of some tokens, shape (m,)."""
        ends = np.zeros(len(starts), np.int64)
        goes_on, ends_here = self._of_open[moves[starts]].T
        first = tokens[starts] @ self._lower[1] + self._bias
        going, places = np.arange(len(starts)), starts + 1
        while len(going):
            before = tokens[places - 1] @ self._lower[2]
            hidden = _maximum_of_pieces(own[places] + first[going] + before, self._num_hidden)
            on, here = (
                np.einsum("ij,ij->i", hidden, self._upper[move[going]])
                + self._upper_bias[move[going]]
                for move in (goes_on, ends_here)
            )
            is_end = is_last[places] | (here > on)
            ends[going[is_end]] = places[is_end] + 1
            going, places = going[~is_end], places[~is_end] + 1
        return ends

    def _first_ones(self, starts: I64, ends: I64, moves: I64) -> Entities:
        """Return the entities that a search from left to right comes to: those inside of one are not seen."""
        kept, free = [], 0
        for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            if start >= free:
                kept.append(number)
                free = end
        labels = [self._closed_labels[move] for move in moves[starts[kept]].tolist()]
        return Entities(starts[kept], ends[kept], labels)


class FastPipeline:
    """Find sentences and entities of texts that spaCy's tokeniser has cut."""

    def __init__(self, nlp: Any) -> None:  # noqa: ANN401 - spaCy's
        # By what made them: a component may be called anything.
        factories = [nlp.get_pipe_meta(name).factory for name in nlp.pipe_names]
        if factories not in FACTORIES:
            raise UnsupportedError(f"the pipeline has {', '.join(factories) or 'no parts'}")
        made_by = f"{type(nlp.tokenizer).__module__}.{type(nlp.tokenizer).__name__}"
        if made_by != SPACY_TOKENISER:
            raise UnsupportedError(f"{made_by} may set more than words")
        *before, ner = (nlp.get_pipe(name) for name in nlp.pipe_names)
        self._sentences = SentenceFinder(before[0]) if before else None
        self._entities = EntityFinder(ner)
        # Every worker process is a thread's worth of work; more threads here only wait for each other.
        self._products = ThreadpoolController().select(user_api="blas")

    @classmethod
    def of(cls, nlp: Any) -> FastPipeline | None:  # noqa: ANN401 - spaCy's
        """Return one for a loaded pipeline, or None where spaCy has to be asked itself."""
        try:
            return cls(nlp)
        except (UnsupportedError, AttributeError, IndexError, KeyError, TypeError, ValueError):
            # A layer is not there, or is of another kind than its name says.
            return None

    @property
    def columns(self) -> tuple[int | str, ...]:
        """Return the attributes of tokens that both networks read, one after the other."""
        of_sentences = self._sentences.vectors.columns if self._sentences else ()
        return (*self._entities.vectors.columns, *of_sentences)

    def find(self, features: Sequence[U64], is_space: Bools) -> tuple[Bools, Entities]:
        """Return which tokens open a sentence, shape (n,), and the entities.

        Args:
            features: of each text the attributes `columns`, shape (its tokens, columns).
            is_space: which tokens are white space, shape (n,), over all texts.
        """
        with self._products.limit(limits=1):
            return self._find(features, is_space)

    def _find(self, features: Sequence[U64], is_space: Bools) -> tuple[Bools, Entities]:
        split = len(self._entities.vectors.columns)
        opens = np.zeros(len(is_space), np.bool_)
        if self._sentences is not None:
            opens = self._sentences([one[:, split:] for one in features])
        text_ends = np.cumsum([len(one) for one in features])
        entities = self._entities([one[:, :split] for one in features], is_space, opens, text_ends)
        return opens, entities
