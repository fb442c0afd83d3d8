from host_tables import define

globals().update(define(__name__, words=True, later=True))
