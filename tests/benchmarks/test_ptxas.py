"""ptxas's words become figures."""

from benchmarks.ptxas import Kernel, parse

TEXT = """ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to \
insufficient register resources for the wgmma pipeline in the function 'wide'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'wide' for 'sm_90a'
ptxas info    : Function properties for wide
    680 bytes stack frame, 680 bytes spill stores, 716 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 1024 bytes smem
ptxas info    : Compiling entry function 'narrow' for 'sm_90a'
ptxas info    : Function properties for narrow
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers
"""


def test_the_report_of_two_kernels():
    assert parse(TEXT) == [Kernel("wide", 168, 680, True, 1024), Kernel("narrow", 96, 0, False, 0)]


def test_nothing_said_is_no_kernel():
    assert parse("") == []
