"""Which passes run, and what their combination does at its neutral and extreme points."""

import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion.guidance import (
    Guidance,
    apg,
    bin_of,
    cfg,
    cfg_star,
    keep_array,
    multimodal,
    passes,
    projected,
    stg,
)
from ltx_jax.errors import UserError

FULL = Guidance(cfg_scale=3, stg_scale=1, stg_blocks=(1,), modality_scale=3, rescale_scale=0.7)


def predictions(batch=2, tokens=5, names=("cond", "uncond", "perturbed", "isolated")):
    rng = np.random.default_rng(0)
    return {n: jnp.asarray(rng.normal(size=(batch, tokens, 3)), jnp.float32) for n in names}


def test_passes_run_only_where_needed():
    assert passes(Guidance(), Guidance()) == ("cond",)
    assert passes(FULL, None) == ("cond", "uncond", "perturbed", "isolated")
    assert passes(Guidance(), Guidance(cfg_scale=7)) == ("cond", "uncond")
    assert passes(Guidance(), None, force=("uncond",)) == ("cond", "uncond")


def test_keep_array_skips_what_each_pass_says():
    keep = keep_array(("cond", "perturbed", "isolated"), FULL, Guidance(), blocks=3)
    assert keep.shape == (4, 3, 3)
    assert np.all(keep[:, :, 0] == 1)
    assert [tuple(s) for s in np.argwhere(keep[:, :, 1] == 0)] == [(0, 1)]  # video self-attention of block 1 alone
    assert np.all(keep[:2, :, 2] == 1) and np.all(keep[2:, :, 2] == 0)
    assert keep_array(("cond", "uncond"), FULL, Guidance(), blocks=3) is None
    with pytest.raises(UserError, match="names block 1, but the transformer has 0 to 0"):
        keep_array(("cond", "perturbed"), FULL, None, blocks=1)


def test_neutral_guidance_is_the_conditional_prediction():
    p = predictions()
    np.testing.assert_array_equal(multimodal(p), p["cond"])


def test_full_rescale_restores_each_samples_deviation():
    p = predictions()
    guided = multimodal(p, 5.0, 1.0, 3.0, 1.0)
    np.testing.assert_allclose(jnp.std(guided, axis=(1, 2)), jnp.std(p["cond"], axis=(1, 2)), rtol=1e-5)


def test_samples_do_not_influence_each_other_unless_asked():
    p = predictions()
    loud = {k: v.at[1].mul(10) for k, v in p.items()}
    scales = (3.0, 1.0, 3.0, 0.7)
    np.testing.assert_array_equal(multimodal(p, *scales)[0], multimodal(loud, *scales)[0])
    assert not np.allclose(multimodal(p, *scales, whole_batch=True)[0], multimodal(loud, *scales, whole_batch=True)[0])


def test_padding_does_not_enter_the_rescale():
    p = predictions()
    mask = jnp.arange(5)[None, :, None] < jnp.array([3, 5])[:, None, None]
    broken = {k: jnp.where(mask, v, jnp.nan) for k, v in p.items()}
    short = multimodal({k: v[:1, :3] for k, v in p.items()}, 3.0, 1.0, 3.0, 0.7)
    padded = multimodal(broken, 3.0, 1.0, 3.0, 0.7, mask=mask)
    np.testing.assert_allclose(padded[:1, :3], short, rtol=1e-6)
    assert np.isfinite(padded[1]).all()


def test_neutral_guiders_change_nothing():
    p = predictions()
    for guider, scale in ((cfg, 1.0), (cfg_star, 1.0), (stg, 0.0), (apg, 1.0)):
        np.testing.assert_array_equal(guider(p["cond"], p["uncond"], scale), p["cond"])


def test_projected_guidance_is_cut_per_sample():
    p = predictions()
    direction = projected(p["uncond"], p["cond"], eta=1.0, norm_threshold=0.5)
    np.testing.assert_allclose(jnp.linalg.norm(direction.reshape(2, -1), axis=1), 0.5, rtol=1e-5)
    across = projected(p["uncond"], p["cond"], eta=0.0, norm_threshold=0.0)
    np.testing.assert_allclose(jnp.sum(across * p["cond"], axis=(1, 2)), 0, atol=1e-4)


def test_table_by_sigma_takes_the_tightest_bound():
    assert [bin_of(s, [0.4, 1.0, 0.8]) for s in (1.2, 0.9, 0.8, 0.1)] == [1, 1, 2, 0]
