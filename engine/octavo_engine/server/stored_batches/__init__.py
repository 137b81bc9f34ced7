"""OpenAI's files and batches: kept in one folder, and answered from it in what online requests leave of the engine.

`objects` are the shapes of the API; `folder` keeps them on the disk, within bounds; `upload` reads a file that a client
sends; `validation` checks its rows; `runs` brings batches from state to state, over a server of rows (`row_server`) whose
requests run in the background.
"""
