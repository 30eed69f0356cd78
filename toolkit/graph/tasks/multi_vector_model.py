"""The model of ``multi_vector`` as one TensorFlow module: tokenizer, encoder, what each token goes through, and which
tokens get a vector."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from toolkit.encoder.layout import Layout
from toolkit.encoder.packing import Chunk, Tokens, row_of_token
from toolkit.encoder.parameters import Parameters
from toolkit.graph.model import TEXT, Outputs, Part, TextModel, joined
from toolkit.graph.tasks.multi_vector import MultiVectorSpec, Role
from toolkit.heads.head import head_parameters, own_parameters, stage_names
from toolkit.tokenizer import shortened
from toolkit.vectors_signatures import MASK, ROW_SPLITS, VALUES, VectorsSignature

__all__ = ["MultiVectorModel"]


class MultiVectorModel(TextModel):
    """A ``MultiVectorSpec`` as TensorFlow functions.

    ``stages`` yields of each role the token ids (``<role>_input_ids``, packed, with ``<role>_row_splits``), the hidden
    states and what each module makes of them; ``encode``'s role is called ``text``. Of each ragged signature that
    pools: the number of the cluster that each vector went to (``<signature>_clusters``), and the row splits of these.
    """

    def __init__(self, spec: MultiVectorSpec, layout: Layout = Layout()) -> None:
        super().__init__(spec, layout)
        self._spec = spec
        self._heads = Parameters(head_parameters(spec.heads))
        self._vectors = self.by_token(self._token_answers, spec.dim)
        asked = {item.role for item in spec.texts}
        self._by_role = {
            str(role.name): Part(self.on_host(functools.partial(self._of_role, role)), [TEXT])
            for role in spec.roles
            if role.name in asked
        }
        self._staged = Part(self.on_host(self._stages), [tf.TensorSpec([None], tf.string, "text")])

    # parts of the graph

    def tried_tokens(self, rows: Sequence[str]) -> Tokens:
        first = self._spec.texts[0]
        role = next(role for role in self._spec.roles if role.name == first.role)
        return self.role_tokens(role, joined(first.prompt.text, tf.constant([row.encode() for row in rows])))

    def tried_answers(self) -> Callable[[tf.Tensor, Chunk], tf.Tensor]:
        answers = self._token_answers()
        return lambda hidden, chunk: answers(hidden)[: chunk.total]

    def role_tokens(self, role: Role, text: tf.Tensor) -> Tokens:
        """Strings, prompts before them, to packed tokens as this role has them, those that fill rows up included."""
        ids, splits, _ = self._tokenize(text)
        ids, splits = shortened(self._spec.tokenizer, ids, splits, role.max_length)
        attended = lengths = splits[1:] - splits[:-1]
        more = role.expansion
        if more is not None:
            row = row_of_token(splits)
            place = tf.range(tf.size(ids)) - tf.gather(splits, row)
            lengths = tf.maximum(lengths, more.length)
            splits = tf.concat([[0], tf.cumsum(lengths)], 0)
            # What others do not find a token at is filled up.
            index = (tf.gather(splits, row) + place)[:, None]
            ids = tf.tensor_scatter_nd_update(tf.fill([splits[-1]], more.id), index, ids)
            attended = lengths if more.attended else attended
        tokens = self.tokens_of(ids, tf.zeros_like(ids), splits)
        return tokens._replace(attended=attended) if self._spec.unattended else tokens

    def _token_answers(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """What each token goes through behind the encoder; parameters are read here, once."""
        values = self._heads.read()

        def answers(hidden: tf.Tensor) -> tf.Tensor:
            *_, (_, x) = self._through(values, hidden)
            return x

        return answers

    def _through(self, values: Mapping[str, tf.Tensor], hidden: tf.Tensor) -> list[tuple[str, tf.Tensor]]:
        """Each stage behind the encoder, that of the hidden state first, and what comes out of it."""
        params = self._heads.named(values)
        found = [("hidden", hidden)]
        for name, head in zip(stage_names(self._spec.heads), self._spec.heads, strict=True):
            found.append((name, head.apply(own_parameters(params, name), found[-1][1])))
        return found

    def _of_role(self, role: Role, text: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Vectors ``[vectors, dim]`` of all texts, and the int32 row splits ``[batch + 1]``; where the role pools also
        which cluster each vector went to, and the row splits before."""
        tokens = self.role_tokens(role, text)
        vectors = self._vectors(*tokens.tensors())
        wanted = tf.ones_like(tokens.ids, tf.bool)
        if role.skipped:
            wanted &= tf.logical_not(_among(tokens.ids, role.skipped))
        if role.kept is not None:
            wanted &= _among(tokens.ids, role.kept)
        before = tf.concat([[0], tf.cumsum(tf.cast(wanted, tf.int32))], 0)
        vectors, splits = tf.boolean_mask(vectors, wanted), tf.gather(before, tokens.row_splits)
        if role.pooling is None:
            return vectors, splits
        found = role.pooling.apply(vectors, splits, role.length)
        return (*found, splits) if role.pooling.merges else found

    # signatures

    def _signature(self, item: VectorsSignature, text: tf.Tensor) -> Outputs:
        vectors, splits, *_ = self._by_role[str(item.role)](joined(item.prompt.text, text))
        if not item.padded:
            return {VALUES: vectors, ROW_SPLITS: splits}
        values, mask = self.padded(splits, (vectors, 0.0))
        return {VALUES: values, MASK: mask}

    def _stages(self, text: tf.Tensor) -> Outputs:
        outputs: Outputs = {}
        prompts = {item.role: item.prompt.text for item in reversed(self._spec.texts)}
        for role in self._spec.roles:
            if role.name not in prompts:
                continue
            tokens = self.role_tokens(role, joined(prompts[role.name], text))
            found = {"input_ids": tokens.ids, "row_splits": tokens.row_splits}
            found |= dict(self._through(self._heads.read(), self._hidden(*tokens.tensors())))
            outputs |= {f"{role.name or 'text'}_{name}": value for name, value in found.items()}
        pooling = {role.name for role in self._spec.roles if role.merges}
        for item in self._spec.texts:
            if item.role in pooling and not item.padded:
                *_, clusters, splits = self._by_role[str(item.role)](joined(item.prompt.text, text))
                outputs |= {f"{item.name}_clusters": clusters, f"{item.name}_clusters_row_splits": splits}
        return outputs

    def functions(self) -> Mapping[str, Callable[..., Outputs]]:
        return {item.name: functools.partial(self._signature, item) for item in self._spec.texts}


def _among(ids: tf.Tensor, chosen: tuple[int, ...]) -> tf.Tensor:
    """Whether each of ``ids`` is one of the sorted ``chosen``."""
    table = tf.constant(chosen, tf.int32)
    place = tf.minimum(tf.searchsorted(table, ids), len(chosen) - 1)
    return tf.equal(tf.gather(table, place), ids)
