"""The strategy `noise`: generate an image again from its feature map and new noise, with IC-GAN.

Dissertation, section 4.2. Here are the flags and the strategy; augment/feature_map.py holds the
networks and the augmenters of the feature map.
"""

from base import run


def noise_arguments(p):
    """Add the strategy's flags to a parser. Nothing heavy is imported."""
    p.add_argument(
        "--weights",
        metavar="PATH",
        help="the published IC-GAN: its tarball, its folder or a G_ema_*.pth; without this flag it "
        "is looked for in $GCL_WEIGHTS (~/.cache/gcl), then downloaded",
    )
    p.add_argument(
        "--views",
        type=run.positive,
        default=1,
        metavar="N",
        help="independent draws for each image; each is a view",
    )
    p.add_argument(
        "--preprocess",
        default="demo",
        choices=["demo", "training"],
        help="how the encoder's input is resized: as in the official demo (bicubic with aligned "
        "corners), or as in its training features (without)",
    )
    p.add_argument(
        "--truncation",
        type=run.above_zero,
        metavar="T",
        help="the noise vector is drawn from a normal distribution cut at +-2T (official demo: "
        "0.7); without this flag from N(0, 1)",
    )
    p.add_argument(
        "--invert-steps",
        type=run.zero_or_more,
        default=0,
        metavar="K",
        help="steps of GAN inversion: they move the noise vector towards the input (section 4.2)",
    )
    p.add_argument(
        "--feature-noise",
        type=run.from_zero,
        metavar="STD",
        help="standard deviation of Gaussian noise on the feature map (Formula 5); all views of an "
        "image then have the noise vector that view0 has without this flag",
    )
    p.add_argument(
        "--feature-truncation",
        type=run.above_zero,
        default=2.0,
        metavar="T",
        help="where the noise on the feature map is cut, in standard deviations",
    )
    p.add_argument(
        "--interpolate",
        type=run.fraction,
        metavar="W",
        help="share of the way, 0 to 1, that the feature map moves towards the one of another "
        "image; the image's seed chooses the other image",
    )
    p.add_argument(
        "--steer",
        metavar="DIRECTION.pt",
        help="a steering vector of extras/train_augmenter.py (Formula 6)",
    )
    p.add_argument(
        "--steer-strength",
        type=run.number,
        default=1.0,
        metavar="A",
        help="length of the step along the steering vector; 1 is the strength it was trained for",
    )
    p.add_argument(
        "--navigator",
        metavar="FILE.pt",
        help="a navigator of extras/train_augmenter.py (Formula 7)",
    )


def noise(args, device):
    """The `Strategy`: encode, draw a noise vector, generate.

    Options change the feature map or the noise vector. They act in the order --interpolate,
    --steer, --navigator, --feature-noise, --invert-steps.
    """
    import torch
    import torch.nn.functional as F

    from augment import feature_map
    from augment.strategy import Strategy
    from images.files import find_images
    from images.read import UnreadableImage

    generator, encoder, files = feature_map.load_icgan(args.weights)
    # What the official code instantiates: its ResNet-50 keeps a classifier that it does not use.
    parameters = generator.parameters_published
    parameters += sum(p.numel() for p in encoder.parameters())
    parameters += 1000 * (encoder.inplanes + 1)
    generator.to(device)
    encoder.to(device)
    width = generator.feature_width
    direction = None
    if args.steer:
        direction = feature_map.load_direction(args.steer, width).to(device)
        files["steer"] = run.file_hash(args.steer)
    navigator = None
    if args.navigator:
        navigator = feature_map.load_navigator(args.navigator, width).to(device)
        files["navigator"] = run.file_hash(args.navigator)
    candidates = []
    if args.interpolate is not None:
        candidates = find_images(args.data)

    def features(images):
        """Feature maps (B, D) of uint8 (B, 256, 256, 3)."""
        images = images.to(device, non_blocking=True)
        inputs = feature_map.encoder_input(images, align_corners=args.preprocess == "demo")
        return feature_map.encode(encoder, inputs).float()

    def partner(path):
        """Another image of --data, chosen by this one's seed. Unreadable images are passed over."""
        rng = run.seed_rng(args.seed, path, "partner")
        for number in rng.integers(len(candidates), size=100):
            other = candidates[number]
            if other == path:
                continue
            try:
                return feature_map.read_demo_square(f"{args.data}/{other}")
            except UnreadableImage:
                continue
        run.fail("--interpolate needs a second readable image in --data.")

    def conditions(images, paths):
        """What the generator is given: the feature maps, changed as the options say."""
        feature = features(images)
        if args.interpolate is not None:
            others = [torch.tensor(partner(path)) for path in paths]
            feature = feature_map.interpolate(
                feature, features(torch.stack(others)), args.interpolate
            )
        if direction is not None:
            feature = feature_map.steer(feature, direction, args.steer_strength)
        if navigator is not None:
            feature = navigator(feature)
        return feature

    def generate_view(images, paths, feature, view):
        """One view, uint8 (B, R, R, 3) on the CPU."""
        drawn = view if args.feature_noise is None else 0
        rngs = [run.seed_rng(args.seed, path, drawn) for path in paths]
        z = feature_map.noise_vectors(rngs, generator.z_width, args.truncation)
        if args.feature_noise is not None:
            rngs = [run.seed_rng(args.seed, path, "feature noise", view) for path in paths]
            feature = feature_map.feature_noise(
                feature, args.feature_noise, args.feature_truncation, rngs
            )
        z = z.to(device)
        if args.invert_steps:
            target = images.to(device).permute(0, 3, 1, 2) / 127.5 - 1
            target = F.interpolate(target, generator.resolution, mode="bilinear", antialias=True)
            z = feature_map.invert(generator, feature, target, z, args.invert_steps)
        pixels = (generator(z, feature).float() + 1) * 127.5
        return pixels.round().byte().permute(0, 2, 3, 1).contiguous().cpu()

    @torch.inference_mode()
    def generate(images, paths, views=args.views):
        with run.autocast(device, args.precision):
            feature = conditions(images, paths)
            drawn = [generate_view(images, paths, feature, view) for view in range(views)]
        return torch.stack(drawn)

    def sheet(images, paths):
        """Figures 15 and 22: each image beside five draws."""
        draws = generate(images, paths, views=5)
        titles = ["original", *(f"draw {view}" for view in range(5))]
        rows = [[image.numpy(), *draws[:, i].numpy()] for i, image in enumerate(images)]
        return titles, rows, ()

    return Strategy(
        views=[f"view{view}" for view in range(args.views)],
        read=feature_map.read_demo_square,
        generate=generate,
        size=generator.resolution,
        parameters=parameters,
        record={"files": files},
        sheet=sheet,
    )
