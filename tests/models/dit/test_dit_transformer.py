"""Properties that hold for any weights; values are compared with recordings in tests/conformance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.models.dit.transformer import ADDED, REMAT_POLICIES, DiT, example_inputs
from ltx_jax.models.layers import abstract_params
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.rules import param_shardings

VIDEO, AUDIO = 0, 1


def close(a, b, tolerance=2e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def only(inputs, modality):
    """The inputs of one stream, the other absent."""
    return tuple(x if i % 2 == modality else None for i, x in enumerate(inputs))


@pytest.mark.parametrize("modality, name", [(VIDEO, "video"), (AUDIO, "audio")])
def test_one_stream_alone_equals_the_single_stream_model(tiny, mesh, modality, name):
    inputs = only(tiny.streams(tiny.config), modality)
    ours = tiny.forward(tiny.config, tiny.params, inputs)
    single = dataclasses.replace(tiny.config, model_type=name)
    kept = {k: v for k, v in tiny.params.items() if k.startswith(name)}
    kept["blocks"] = {name: tiny.params["blocks"][name]}
    shapes, _ = abstract_params(DiT(single), *example_inputs(single))
    assert jax.tree.structure(shapes) != jax.tree.structure(tiny.params)
    alone = tiny.forward(single, kept, inputs)
    np.testing.assert_array_equal(ours[modality], alone[modality])
    assert ours[1 - modality] is None


def test_a_stream_without_tokens_is_an_absent_one(tiny, mesh):
    video, audio, *contexts = tiny.streams(tiny.config)
    empty = dataclasses.replace(
        audio, latent=audio.latent[:, :0], rotary=audio.rotary.replace(index=audio.rotary.index[:, :0])
    )
    ours = tiny.forward(tiny.config, tiny.params, (video, empty, *contexts))
    close(ours[0], tiny.forward(tiny.config, tiny.params, only((video, None, *contexts), VIDEO))[0])
    assert ours[1].shape == (2, 0, 5)


def test_padding_does_not_reach_real_tokens(tiny, mesh):
    """Padding holds NaN, and lies at the tail of both streams."""
    video, audio, *contexts = tiny.streams(tiny.config, video=9, audio=7)
    lengths = (jnp.array([6, 9]), jnp.array([7, 4]))
    pad = lambda s, n: s.replace(
        latent=jnp.where(jnp.arange(s.latent.shape[1])[None, :, None] < n[:, None, None], s.latent, jnp.nan), length=n
    )
    padded = tiny.forward(tiny.config, tiny.params, (pad(video, lengths[0]), pad(audio, lengths[1]), *contexts))
    assert all(np.isfinite(v).all() for v in padded)
    for sample in range(2):
        one = [_sample(s, sample, int(n[sample])) for s, n in zip((video, audio), lengths, strict=True)]
        text = [c.replace(tokens=c.tokens[sample : sample + 1]) for c in contexts]
        alone = tiny.forward(tiny.config, tiny.params, (*one, *text))
        for full, short in zip(padded, alone, strict=True):
            close(full[sample : sample + 1, : short.shape[1]], short)


def _sample(stream, sample, length):
    """One sample of a stream, cut to its length."""
    row = slice(sample, sample + 1)
    cut = lambda x: None if x is None else x[row, :length]
    turn = lambda r: r.replace(index=r.index[row, :length] if r.index.shape[0] > 1 else r.index[:, :length])
    return stream.replace(
        latent=cut(stream.latent), sigma=stream.sigma[row], levels=stream.levels[row], keyframes=cut(stream.keyframes),
        level_index=cut(stream.level_index), rotary=turn(stream.rotary), cross_rotary=turn(stream.cross_rotary),
    )  # fmt: skip


def test_levels_equal_a_level_per_token(tiny, mesh):
    video, *rest = tiny.streams(tiny.config)
    batch, tokens = video.latent.shape[:2]
    dense = video.replace(
        levels=video.timesteps(), level_index=jnp.broadcast_to(jnp.arange(tokens), (batch, tokens)).astype(jnp.int32)
    )
    a, b = (tiny.forward(tiny.config, tiny.params, (v, *rest)) for v in (video, dense))
    close(a[0], b[0])
    close(a[1], b[1])


def test_a_disabled_stream_still_serves_the_other(tiny, mesh):
    inputs = tiny.streams(tiny.config)
    both = tiny.forward(tiny.config, tiny.params, inputs)
    mute = tiny.forward(tiny.config, tiny.params, (inputs[0], inputs[1].replace(enabled=False), *inputs[2:]))
    alone = tiny.forward(tiny.config, tiny.params, only(inputs, VIDEO))
    assert np.abs(mute[0] - both[0]).max() > 1e-3  # the audio no longer changes from block to block
    assert np.abs(mute[0] - alone[0]).max() > 1e-3  # but it is heard


def test_skipping_both_cross_directions_equals_separate_streams(tiny, mesh):
    inputs = tiny.streams(tiny.config)
    keep = jnp.ones((4, 2, 2)).at[2:].set(0)
    apart = tiny.forward(tiny.config, tiny.params, inputs, keep)
    for modality in (VIDEO, AUDIO):
        close(apart[modality], tiny.forward(tiny.config, tiny.params, only(inputs, modality))[modality])
    everything = tiny.forward(tiny.config, tiny.params, inputs, jnp.ones((4, 2, 2)))
    close(everything[0], tiny.forward(tiny.config, tiny.params, inputs)[0])


def test_what_the_blocks_added_can_stand_for_them(tiny, mesh):
    """Entry and exit are run again, so that other noise levels still make another velocity of it."""
    inputs, network = tiny.streams(tiny.config), DiT(tiny.config)
    plain, left = tiny.quick_jit(lambda: network.apply({"params": tiny.params}, *inputs, mutable=[ADDED]))()
    again = tiny.quick_jit(lambda *inputs: network.apply({"params": tiny.params}, *inputs, added=left[ADDED]["tokens"]))
    for ours, theirs in zip(again(*inputs), plain, strict=True):
        close(ours, theirs)
    video = inputs[0].replace(levels=0.5 * inputs[0].levels)
    moved = again(video, *inputs[1:])
    assert np.abs(moved[0] - plain[0]).max() > 1e-2
    np.testing.assert_array_equal(moved[1], again(*inputs)[1])  # no block has told the sound of it


def test_keep_is_per_layer_and_sample(tiny, mesh):
    inputs = tiny.streams(tiny.config)
    full = tiny.forward(tiny.config, tiny.params, inputs)[0]
    keep = jnp.ones((4, 2, 2)).at[0, 1, 1].set(0)  # video self-attention, second block, second sample
    skipped = tiny.forward(tiny.config, tiny.params, inputs, keep)[0]
    close(skipped[0], full[0])
    assert np.abs(skipped[1] - full[1]).max() > 1e-3


@pytest.mark.parametrize("style", ["config", "old"])
def test_bfloat16_stays_near_float32(tiny, mesh, style):
    config = getattr(tiny, style)
    params, inputs = tiny.random_params(config), tiny.streams(config)
    exact = tiny.forward(config, params, inputs)
    rough = tiny.forward(config, params, inputs, dtype=jnp.bfloat16)
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == jnp.float32
        assert np.linalg.norm(a - b) / np.linalg.norm(a) < 0.03


def test_remat_changes_no_gradient(tiny, mesh):
    """With the video stream alone, which has every kind of layer and compiles in half the time."""
    inputs = only(tiny.streams(tiny.config), VIDEO)
    config = dataclasses.replace(tiny.config, model_type="video")
    params = tiny.random_params(config)

    def gradient(remat):
        def loss(params):
            velocities = DiT(config, remat=remat).apply({"params": params}, *inputs)
            return jnp.sum(velocities[VIDEO] ** 2)

        return tiny.quick_jit(jax.grad(loss))(params)

    plain = gradient("none")
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(plain) if g.size > 1)
    for remat in set(REMAT_POLICIES) - {"none"}:
        jax.tree.map(lambda a, b: close(a, b, 1e-4), plain, gradient(remat))
    with pytest.raises(UserError, match="remat"):
        DiT(config, remat="some").apply({"params": params}, *inputs)


@pytest.mark.slow
def test_sharding_changes_nothing_for_an_odd_token_count(tiny, mesh):
    """Velocities and gradients on eight devices equal those on one; 7 video tokens do not divide."""
    inputs = jax.tree.map(np.asarray, tiny.streams(tiny.config, batch=4))
    host = jax.tree.map(np.asarray, tiny.params)

    def loss(params, inputs):
        velocities = DiT(tiny.config).apply({"params": params}, *inputs)
        return sum(jnp.mean(v**2) for v in velocities), velocities

    step = jax.value_and_grad(loss, has_aux=True)
    expected = tiny.quick_jit(step)(host, inputs)
    shapes, axes = abstract_params(DiT(tiny.config), *example_inputs(tiny.config))
    many = make_mesh(MeshConfig(2, 2, 2, 1))
    with jax.set_mesh(many):
        params = jax.device_put(host, param_shardings(axes, shapes, many))
        ours = tiny.quick_jit(step)(params, inputs)
    assert not params["blocks"]["video"]["ff"]["proj"]["kernel"].sharding.is_fully_replicated
    jax.tree.map(lambda a, b: close(np.asarray(a), np.asarray(b), 2e-4), ours, expected)


@pytest.mark.parametrize("sizes", [(1, 1, 4, 2), (1, 2, 1, 4)])
def test_context_and_tensor_axes_change_nothing(tiny, mesh, sizes):
    inputs = tiny.streams(tiny.config)
    expected = tiny.forward(tiny.config, tiny.params, inputs)
    shapes, axes = abstract_params(DiT(tiny.config), *example_inputs(tiny.config))
    many = make_mesh(MeshConfig(*sizes))
    with jax.set_mesh(many):
        params = jax.device_put(jax.tree.map(np.asarray, tiny.params), param_shardings(axes, shapes, many))
        ours = tiny.forward(tiny.config, params, jax.tree.map(np.asarray, inputs))
    jax.tree.map(lambda a, b: close(np.asarray(a), np.asarray(b), 2e-4), ours, expected)


def test_large_parameters_are_sharded_at_full_size(tiny, mesh):
    config = dataclasses.replace(
        tiny.config, num_layers=48, num_attention_heads=32, attention_head_dim=128, cross_attention_dim=4096,
        audio_num_attention_heads=32, audio_attention_head_dim=64, audio_cross_attention_dim=2048, in_channels=128,
        out_channels=128, audio_in_channels=128, audio_out_channels=128,
    )  # fmt: skip
    shapes, axes = abstract_params(DiT(config), *example_inputs(config))
    many = make_mesh(MeshConfig(1, 2, 2, 2))
    shardings = param_shardings(axes, shapes, many)
    whole = {
        jax.tree_util.keystr(path): shape.size
        for (path, shape), sharding in zip(
            jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True
        )
        if np.prod(sharding.shard_shape(shape.shape)) * 4 > shape.size
    }
    assert max(whole.values()) < 2.5e6  # tables, biases and norms, stacked over the layers


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda v, a, vc, ac: (v.replace(latent=v.latent[..., :3]), a, vc, ac), "latent"),
        (lambda v, a, vc, ac: (v.replace(level_index=None), a, vc, ac), "level_index"),
        (lambda v, a, vc, ac: (v.replace(cross_rotary=None), a, vc, ac), "cross_rotary"),
        (
            lambda v, a, vc, ac: (v.replace(rotary=v.rotary.replace(index=v.rotary.index[:, :3])), a, vc, ac),
            "positions",
        ),
        (lambda v, a, vc, ac: (v, a, None, ac), "text context"),
        (lambda v, a, vc, ac: (v, a, ac, ac), "context has shape"),
    ],
)
def test_bad_inputs_get_a_sentence(tiny, mesh, change, words):
    inputs = change(*tiny.streams(tiny.config))
    with pytest.raises(UserError, match=words):
        jax.eval_shape(lambda: DiT(tiny.config).apply({"params": tiny.params}, *inputs))


def test_a_single_stream_model_refuses_the_other_stream_and_a_wrong_keep(tiny, mesh):
    inputs = tiny.streams(tiny.config)
    single = dataclasses.replace(tiny.config, model_type="video")
    with pytest.raises(UserError, match="no audio stream"):
        jax.eval_shape(lambda: DiT(single).apply({"params": tiny.params}, *inputs))
    with pytest.raises(UserError, match="keep"):
        jax.eval_shape(lambda: DiT(tiny.config).apply({"params": tiny.params}, *inputs, jnp.ones((4, 3, 2))))


def test_positions_matter(tiny, mesh):
    inputs = tiny.streams(tiny.config)
    first = tiny.forward(tiny.config, tiny.params, inputs)[0]
    rotary = inputs[0].rotary
    moved = inputs[0].replace(rotary=rotary.replace(index=rotary.index[:, ::-1]))
    second = tiny.forward(tiny.config, tiny.params, (moved, *inputs[1:]))[0]
    assert np.abs(first - second).max() > 1e-4
