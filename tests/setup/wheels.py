"""Small wheels: Python packages of one module, as pip installs them."""

import zipfile


def write_wheel(folder, name, version, module=None, code="", needs=()):
    """Write NAME-VERSION with one module, which is called as the package where not said."""
    distribution = f"{name.replace('-', '_')}-{version}"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
    metadata += [f"Requires-Dist: {package}\n" for package in needs]
    with zipfile.ZipFile(folder / f"{distribution}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{module or name.replace('-', '_')}.py", code)
        archive.writestr(f"{distribution}.dist-info/METADATA", "".join(metadata))
        archive.writestr(
            f"{distribution}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{distribution}.dist-info/RECORD", "")
