"""`ctl replay`: recorded requests, sent again, and what became different. See docs/replay.md.

recording --read--> exchanges --send--> outcomes --compare--> differences --report--> view
                        \\--isolated--> a gateway of its own, in a temporary state folder
"""
