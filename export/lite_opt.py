"""Runs Paddle Lite's ``opt``: a script for the Paddle Lite environment (standard library and paddlelite only).

python lite_opt.py PROGRAM_FOLDER OUT ARCH PRECISION
"""

import sys


def main(program: str, out: str, arch: str, precision: str) -> None:
    from paddlelite.lite import Opt

    opt = Opt()
    opt.set_model_file(program + "/model.pdmodel")
    opt.set_param_file(program + "/model.pdiparams")
    if precision == "fp16":
        opt.enable_fp16()  # works only before set_valid_places
    opt.set_valid_places(arch)
    opt.set_model_type("naive_buffer")
    opt.set_optimize_out(out)
    opt.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
