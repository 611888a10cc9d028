"""The reader of optimised HLO, on snippets of both compilers."""

import pytest

from ltx_jax.planning.hlo import first_group, parse, shapes
from ltx_jax.planning.traffic import Collective, totals

# Shortened from the TPU compiler's output: a loop of 48 with a gathered, stacked weight; layouts and S(1) are its own.
TPU = """\
HloModule jit_forward, is_scheduled=true

%all-reduce-scatter.1 (input.1: bf16[64,4096]) -> bf16[64,1024] {
  %input.1 = bf16[64,4096]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[64,4096]{1,0:T(8,128)(2,1)} all-reduce(%input.1), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %constant.1 = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice.9 = bf16[64,1024]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.9, %constant.1, %constant.1), dynamic_slice_sizes={64,1024}
}

%fused.1 (param_0.1: bf16[48,1024,512], param_1.1: s32[]) -> bf16[1024,512] {
  %param_0.1 = bf16[48,1024,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1.1 = s32[]{:T(128)} parameter(1)
  %constant.2 = s32[]{:T(128)} constant(0)
  %dynamic-slice.1 = bf16[1,1024,512]{2,1,0:T(8,128)(2,1)} dynamic-slice(%param_0.1, %param_1.1, %constant.2, %constant.2), dynamic_slice_sizes={1,1024,512}
  ROOT %bitcast.1 = bf16[1024,512]{1,0:T(8,128)(2,1)} bitcast(%dynamic-slice.1)
}

%body.1 (arg.1: (s32[], bf16[64,1024], bf16[48,1024,512])) -> (s32[], bf16[64,1024], bf16[48,1024,512]) {
  %arg.1 = (s32[]{:T(128)}, bf16[64,1024]{1,0:T(8,128)(2,1)}, /*index=2*/bf16[48,1024,512]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  %x.1 = bf16[64,1024]{1,0:T(8,128)(2,1)} get-tuple-element(%arg.1), index=1
  %stack.1 = bf16[48,1024,512]{2,1,0:T(8,128)(2,1)} get-tuple-element(%arg.1), index=2
  %weight.1 = bf16[1024,512]{1,0:T(8,128)(2,1)} fusion(%stack.1, %i.1), kind=kLoop, calls=%fused.1
  %all-gather.1 = bf16[1024,4096]{1,0:T(8,128)(2,1)S(1)} all-gather(%weight.1), channel_id=1, replica_groups=mesh['a'=1,'b'=8] {'b'}, dimensions={1}, use_global_device_ids=true
  %convolution.1 = bf16[64,4096]{1,0:T(8,128)(2,1)} convolution(%x.1, %all-gather.1), dim_labels=bf_io->bf
  %y.1 = bf16[64,1024]{1,0:T(8,128)(2,1)} fusion(%convolution.1), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[64,1024]{1,0:T(8,128)(2,1)}, bf16[48,1024,512]{2,1,0:T(8,128)(2,1)}) tuple(%i.1, %y.1, %stack.1)
}

%condition.1 (arg.2: (s32[], bf16[64,1024], bf16[48,1024,512])) -> pred[] {
  %constant.3 = s32[]{:T(128)} constant(48)
  %arg.2 = (s32[]{:T(128)}, bf16[64,1024]{1,0}, bf16[48,1024,512]{2,1,0}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%arg.2), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.2, %constant.3), direction=LT
}

ENTRY %main.1 (x.2: bf16[64,1024], w.2: bf16[48,1024,512]) -> bf16[64,1024] {
  %x.2 = bf16[64,1024]{1,0:T(8,128)(2,1)} parameter(0)
  %w.2 = bf16[48,1024,512]{2,1,0:T(8,128)(2,1)} parameter(1)
  %zero.2 = s32[]{:T(128)} constant(0)
  %tuple.2 = (s32[]{:T(128)}, bf16[64,1024]{1,0}, bf16[48,1024,512]{2,1,0}) tuple(%zero.2, %x.2, %w.2)
  %while.1 = (s32[]{:T(128)}, bf16[64,1024]{1,0}, bf16[48,1024,512]{2,1,0}) while(%tuple.2), condition=%condition.1, body=%body.1
  ROOT %out.1 = bf16[64,1024]{1,0:T(8,128)(2,1)} get-tuple-element(%while.1), index=1
}
"""  # noqa: E501

# Shortened from the CUDA compiler's output: an asynchronous gather, and a loop whose length only the run knows.
CUDA = """\
HloModule jit_run, is_scheduled=true

%body (arg: (s32[], f32[8,16], s32[])) -> (s32[], f32[8,16], s32[]) {
  %arg = (s32[], f32[8,16]{1,0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = f32[8,16]{1,0} get-tuple-element(%arg), index=1
  %stop = s32[] get-tuple-element(%arg), index=2
  %start = (f32[8,16]{1,0}, f32[32,16]{1,0}) all-gather-start(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %done = f32[32,16]{1,0} all-gather-done(%start)
  %y = f32[8,16]{1,0} slice(%done), slice={[0:8], [0:16]}
  ROOT %t = (s32[], f32[8,16]{1,0}, s32[]) tuple(%i, %y, %stop)
}

%condition (arg.c: (s32[], f32[8,16], s32[])) -> pred[] {
  %arg.c = (s32[], f32[8,16]{1,0}, s32[]) parameter(0)
  %i.c = s32[] get-tuple-element(%arg.c), index=0
  %stop.c = s32[] get-tuple-element(%arg.c), index=2
  ROOT %lt = pred[] compare(%i.c, %stop.c), direction=LT
}

ENTRY %main (x.m: f32[8,16], n.m: s32[]) -> f32[8,16] {
  %x.m = f32[8,16]{1,0} parameter(0)
  %n.m = s32[] parameter(1)
  %zero = s32[] constant(0)
  %tuple = (s32[], f32[8,16]{1,0}, s32[]) tuple(%zero, %x.m, %n.m)
  %while = (s32[], f32[8,16]{1,0}, s32[]) while(%tuple), condition=%condition, body=%body
  ROOT %out = f32[8,16]{1,0} get-tuple-element(%while), index=1
}
"""  # noqa: E501


def test_shapes_know_their_memory():
    (shape,) = shapes("bf16[2,6144,512]{2,1,0:T(8,128)(2,1)S(1)}")
    assert (shape.dtype, shape.dims, shape.space, shape.bytes) == ("bf16", (2, 6144, 512), 1, 2 * 2 * 6144 * 512)
    assert [s.bytes for s in shapes("(f8e4m3fn[3], pred[4], f32[], s4[6])")] == [3, 4, 4, 3]


def test_a_loop_body_counts_as_often_as_it_runs():
    done = totals(parse(TPU), 8)
    assert done.flops == 48 * 2 * 64 * 1024 * 4096
    gather, scatter = (
        Collective("all-gather", "bf16", tuple(range(8))),
        Collective("reduce-scatter", "bf16", (0, 1, 2, 3)),
    )
    assert done.counts == {gather: 48, scatter: 48}
    assert done.collectives[gather] == 48 * 1024 * 4096 * 2 * 7 / 8
    assert done.collectives[scatter] == 48 * 64 * 4096 * 2 * 3 / 4


def test_memory_traffic_counts_slices_and_leaves_out_what_lies_on_the_chip():
    weight, x, hidden = 1024 * 512 * 2, 64 * 1024 * 2, 64 * 4096 * 2
    sliced = weight + 4 + weight  # the slice, the index, the result: not the whole stack
    gathered = weight  # its result lies in on-chip memory
    assert totals(parse(TPU), 8).bytes == 48 * (sliced + gathered + x + hidden + hidden + x)


def test_loops_of_unknown_length_run_as_often_as_told():
    key = Collective("all-gather", "f32", (0, 1, 2, 3))
    for trips in (1, 5):
        done = totals(parse(CUDA), 8, trips)
        assert done.counts[key] == trips and done.collectives[key] == trips * 32 * 16 * 4 * 3 / 4


@pytest.mark.parametrize(("text", "group"), [
    ("replica_groups={{0,1},{2,3}}, x", (0, 1)),
    ("replica_groups=[4,2]<=[2,4]T(1,0), use", (0, 4)),
    ("replica_groups=[2,4]<=[8], use", (0, 1, 2, 3)),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, dimensions={0}", (0, 4)),
    ("source_target_pairs={{0,3},{1,0}}, x", (0, 3)),
    ("channel_id=1", (0, 1, 2, 3, 4, 5, 6, 7)),
])  # fmt: skip
def test_groups_are_read_in_every_spelling(text, group):
    assert first_group(text, 8) == group
