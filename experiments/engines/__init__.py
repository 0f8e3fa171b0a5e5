"""Who runs trials. An engine takes trials, says when each starts and ends, and leaves their records.

environment   threads and devices of a trial
server        a process that has the framework loaded and forks one process per trial
client        the other end of a server
local         as many trials at a time as this machine has room for
ray           the same on the machines of a Ray cluster
"""
