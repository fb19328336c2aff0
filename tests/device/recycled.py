"""Run by recycled_test.sh:

  recycled.py fill DEVICE BLOCKS            whole blocks of a pattern
  recycled.py sectors DEVICE BLOCKS OFFSET  a sector of ones at that place in each block
  recycled.py look DEVICE                   fails where there is anything but zeros and ones
"""
import os
import sys

BLOCK = 65536


def write(path, pieces):
    device = os.open(path, os.O_WRONLY)
    for offset, data in pieces:
        os.pwrite(device, data, offset)
    os.fsync(device)
    os.close(device)


def look(path):
    with open(path, "rb") as device:
        while data := device.read(1 << 20):
            other = data.translate(None, b"\0\1")
            if other:
                sys.exit(f"before {device.tell()}: {other[:64]}")


what, device = sys.argv[1:3]
if what == "fill":
    pattern = (b"what another has written" * BLOCK)[:BLOCK]
    write(device, ((block * BLOCK, pattern) for block in range(int(sys.argv[3]))))
elif what == "sectors":
    write(device, ((block * BLOCK + int(sys.argv[4]), b"\1" * 512) for block in range(int(sys.argv[3]))))
else:
    look(device)
