#!/bin/sh
# Leaves of /opt/octavo what runs: no tests, headers, stubs or debug symbols, byte code for what is imported.
set -eu
cd "$(/opt/octavo/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
find . -depth -type d \( -name tests -o -name __pycache__ \) -exec rm -rf {} +
find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.[ach]' -o -name '*.hpp' -o -name '*.cpp' \) \
    -not -path './triton/*' -not -path './torch/*' -not -path './nvidia/*' -delete
# The Kubernetes client is read for kubeconfigs alone, outside of a cluster: 70 MB of generated text, a tenth of it as
# an archive that Python imports from. Its asynchronous twin is not used at all.
if [ -d kubernetes ]; then
    rm -rf kubernetes/aio
    /opt/octavo/bin/python -m compileall -q -b --invalidation-mode unchecked-hash kubernetes
    find kubernetes -name '*.py' -delete
    find kubernetes -exec touch -d 1980-01-02 {} +
    /opt/octavo/bin/python -m zipfile -c kubernetes.zip kubernetes
    echo kubernetes.zip >kubernetes.pth
    rm -rf kubernetes
fi
rm -rf torch/include nvidia/*/include  # for those who compile against them; Triton brings its own
if command -v strip >/dev/null; then
    # Not what wheels have bundled: patchelf has moved its tables, and strip breaks them.
    find . -name '*.so' -not -path './torch/*' -not -path './triton/*' -not -path './nvidia/*' \
        -not -path '*.libs/*' -exec strip --strip-unneeded {} +
fi
# Unchecked: a file's time changes on its way into an image, its content doesn't. Nothing colours source code here, and
# torch's own tests are for a newer Python.
/opt/octavo/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
    -x 'pygments/lexers/|torch/testing/_internal/' . >&2
printf '#!/opt/octavo/bin/python\n' | cat - /src/images/health.py >/opt/octavo/bin/octavo-health
chmod 0755 /opt/octavo/bin/octavo-health
rm -f /opt/octavo/bin/[Aa]ctivate* /opt/octavo/bin/*.ps1
