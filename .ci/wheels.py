"""Says what is wrong with built wheels: each needs its types marker, its licence and its readme."""

import sys
import zipfile
from pathlib import Path

missing = []
wheels = sorted(Path(sys.argv[1]).glob("*.whl"))
for wheel in wheels:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    if not any(name.endswith("/py.typed") for name in names):
        missing.append(f"{wheel.name}: py.typed")
    if "Description-Content-Type: text/markdown" not in metadata:
        missing.append(f"{wheel.name}: readme")
print(f"{len(wheels)} wheels, {len(missing)} faults", *missing, sep="\n")
sys.exit(bool(missing) or not wheels)
