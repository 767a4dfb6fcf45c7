# Runs INSIDE a guest as a service: writes one file after the other into the folder, and lists each in the other file when its fsync has
# succeeded. That one lies with the host, so what is listed outlives the guest.
import hashlib
import os
import sys
import time

folder, listed = sys.argv[1:]
assert os.path.ismount(folder), folder
sums = os.open(listed, os.O_RDWR | os.O_CREAT | os.O_APPEND)
number = os.fstat(sums).st_size // len(f"{'':64}  {0:08}\n")
while True:
    data = os.urandom(12 << 10)
    with open(f"{folder}/{number:08}", "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.write(sums, f"{hashlib.sha256(data).hexdigest()}  {number:08}\n".encode())
    number += 1
    time.sleep(0.1)
