"""Map the top-level folders onto the `edgec` namespace (see docs/architecture.md)."""

from setuptools import find_packages, setup

ROOTS = (
    "targets", "runtime", "compiler", "models", "protocol", "device_agent", "fleet", "cli", "benchmarks",
)  # fmt: skip

package_dir = {f"edgec.{root}": root for root in ROOTS}
packages = [f"edgec.{root}" for root in ROOTS]
for root in ROOTS:
    packages += [f"edgec.{root}.{name}" for name in find_packages(root)]

setup(packages=packages, package_dir=package_dir)
