"""What the TPU compiler says of our kernels: the vector memory that each was given, read from a compiled program."""

import re

_NAME = re.compile(r"(tpu_\w+)\)*/pallas_call")
_SIZE = re.compile(r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"\d+","size":"(\d+)"')


def kernel_vmem(text: str) -> dict[str, int]:
    """Bytes of VMEM by kernel (the names given to `pallas_call`: tpu_...), in the program's order.

    text: an executable's `as_text()`.
    """
    sizes = {}
    for line in text.splitlines():
        name, size = _NAME.search(line), _SIZE.search(line)
        if "tpu_custom_call" in line and name and size:
            sizes[name[1]] = int(size[1])
    return sizes
