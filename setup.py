"""Packages: ltx_jax, and configs/ inside it as ltx_jax.configs, so that the installed commands find the toy's."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ltx_jax*"]), "ltx_jax.configs"],
    package_dir={"ltx_jax.configs": "configs"},
)
