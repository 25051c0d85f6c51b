"""The classes of Mapillary Vistas v1.2 and v2.0 in the order of their ids, and what each is among Cityscapes' 19.

Names and `*`, which marks classes whose objects are told apart: `config_v1.2.json` and `config_v2.0.json` of the data
set. After `->` stands the class of Cityscapes, in the mapping `cityscapes`, whose definition (https://www.cityscapes-dataset.com/dataset-overview,
"class definitions") covers it; without one the class is ignored. What took a decision:

* Lane markings, crosswalks, bike and service lanes, shoulders, manholes and potholes lie in the carriageway: road.
* Curbs, curb cuts, pedestrian areas and traffic islands are named by Cityscapes' definition of the sidewalk.
* A garage is a building, sand is terrain, every vehicle on rails a train, any rider a rider.
* Persons in groups are persons nobody told apart. Groups of vehicles are of no single class, and ignored.
* Ignored as by Cityscapes itself: parking, driveways, rail tracks, guard rails, bridges, tunnels, pole groups,
  caravans, trailers, the ego vehicle, ground.
* Ignored because Cityscapes draws no clear line: other barriers, lane separators, street lights (pole or static, by
  size), backs and frames of traffic signs, signs of shops and advertisements, catch basins, mountains, snow, water,
  animals, street furniture, other and slow vehicles.
"""

V1_2 = """
animal--bird *
animal--ground-animal *
construction--barrier--curb -> sidewalk
construction--barrier--fence -> fence
construction--barrier--guard-rail
construction--barrier--other-barrier
construction--barrier--wall -> wall
construction--flat--bike-lane -> road
construction--flat--crosswalk-plain * -> road
construction--flat--curb-cut -> sidewalk
construction--flat--parking
construction--flat--pedestrian-area -> sidewalk
construction--flat--rail-track
construction--flat--road -> road
construction--flat--service-lane -> road
construction--flat--sidewalk -> sidewalk
construction--structure--bridge
construction--structure--building -> building
construction--structure--tunnel
human--person * -> person
human--rider--bicyclist * -> rider
human--rider--motorcyclist * -> rider
human--rider--other-rider * -> rider
marking--crosswalk-zebra * -> road
marking--general -> road
nature--mountain
nature--sand -> terrain
nature--sky -> sky
nature--snow
nature--terrain -> terrain
nature--vegetation -> vegetation
nature--water
object--banner *
object--bench *
object--bike-rack *
object--billboard *
object--catch-basin *
object--cctv-camera *
object--fire-hydrant *
object--junction-box *
object--mailbox *
object--manhole * -> road
object--phone-booth *
object--pothole -> road
object--street-light *
object--support--pole * -> pole
object--support--traffic-sign-frame *
object--support--utility-pole * -> pole
object--traffic-light * -> traffic light
object--traffic-sign--back *
object--traffic-sign--front * -> traffic sign
object--trash-can *
object--vehicle--bicycle * -> bicycle
object--vehicle--boat *
object--vehicle--bus * -> bus
object--vehicle--car * -> car
object--vehicle--caravan *
object--vehicle--motorcycle * -> motorcycle
object--vehicle--on-rails -> train
object--vehicle--other-vehicle *
object--vehicle--trailer *
object--vehicle--truck * -> truck
object--vehicle--wheeled-slow *
void--car-mount
void--ego-vehicle
void--unlabeled
"""

V2_0 = """
animal--bird *
animal--ground-animal *
construction--barrier--ambiguous
construction--barrier--concrete-block
construction--barrier--curb -> sidewalk
construction--barrier--fence -> fence
construction--barrier--guard-rail
construction--barrier--other-barrier
construction--barrier--road-median
construction--barrier--road-side
construction--barrier--separator
construction--barrier--temporary *
construction--barrier--wall -> wall
construction--flat--bike-lane -> road
construction--flat--crosswalk-plain * -> road
construction--flat--curb-cut -> sidewalk
construction--flat--driveway *
construction--flat--parking
construction--flat--parking-aisle
construction--flat--pedestrian-area -> sidewalk
construction--flat--rail-track
construction--flat--road -> road
construction--flat--road-shoulder -> road
construction--flat--service-lane -> road
construction--flat--sidewalk -> sidewalk
construction--flat--traffic-island -> sidewalk
construction--structure--bridge
construction--structure--building -> building
construction--structure--garage -> building
construction--structure--tunnel
human--person--individual * -> person
human--person--person-group -> person
human--rider--bicyclist * -> rider
human--rider--motorcyclist * -> rider
human--rider--other-rider * -> rider
marking--continuous--dashed -> road
marking--continuous--solid -> road
marking--continuous--zigzag -> road
marking--discrete--ambiguous -> road
marking--discrete--arrow--left * -> road
marking--discrete--arrow--other * -> road
marking--discrete--arrow--right * -> road
marking--discrete--arrow--split-left-or-straight * -> road
marking--discrete--arrow--split-right-or-straight * -> road
marking--discrete--arrow--straight * -> road
marking--discrete--crosswalk-zebra * -> road
marking--discrete--give-way-row * -> road
marking--discrete--give-way-single * -> road
marking--discrete--hatched--chevron -> road
marking--discrete--hatched--diagonal -> road
marking--discrete--other-marking * -> road
marking--discrete--stop-line * -> road
marking--discrete--symbol--bicycle * -> road
marking--discrete--symbol--other * -> road
marking--discrete--text * -> road
marking-only--continuous--dashed -> road
marking-only--discrete--crosswalk-zebra -> road
marking-only--discrete--other-marking -> road
marking-only--discrete--text -> road
nature--mountain
nature--sand -> terrain
nature--sky -> sky
nature--snow
nature--terrain -> terrain
nature--vegetation -> vegetation
nature--water
object--banner *
object--bench *
object--bike-rack *
object--catch-basin *
object--cctv-camera *
object--fire-hydrant *
object--junction-box *
object--mailbox *
object--manhole * -> road
object--parking-meter *
object--phone-booth *
object--pothole -> road
object--sign--advertisement *
object--sign--ambiguous *
object--sign--back *
object--sign--information *
object--sign--other *
object--sign--store *
object--street-light *
object--support--pole * -> pole
object--support--pole-group
object--support--traffic-sign-frame *
object--support--utility-pole * -> pole
object--traffic-cone *
object--traffic-light--general-single * -> traffic light
object--traffic-light--pedestrians * -> traffic light
object--traffic-light--general-upright * -> traffic light
object--traffic-light--general-horizontal * -> traffic light
object--traffic-light--cyclists * -> traffic light
object--traffic-light--other * -> traffic light
object--traffic-sign--ambiguous *
object--traffic-sign--back *
object--traffic-sign--direction-back *
object--traffic-sign--direction-front * -> traffic sign
object--traffic-sign--front * -> traffic sign
object--traffic-sign--information-parking * -> traffic sign
object--traffic-sign--temporary-back *
object--traffic-sign--temporary-front * -> traffic sign
object--trash-can *
object--vehicle--bicycle * -> bicycle
object--vehicle--boat *
object--vehicle--bus * -> bus
object--vehicle--car * -> car
object--vehicle--caravan *
object--vehicle--motorcycle * -> motorcycle
object--vehicle--on-rails * -> train
object--vehicle--other-vehicle *
object--vehicle--trailer *
object--vehicle--truck * -> truck
object--vehicle--vehicle-group
object--vehicle--wheeled-slow *
object--water-valve *
void--car-mount
void--dynamic
void--ego-vehicle
void--ground
void--static
void--unlabeled
"""

# No two public mappings agree. These two are of version 1.2; what they do not name is ignored.

ROBUSTNET = """
road: construction--flat--road, marking--general, object--manhole
sidewalk: construction--barrier--curb, construction--flat--sidewalk
building: construction--structure--building
wall: construction--barrier--wall
fence: construction--barrier--fence
pole: object--support--pole, object--support--utility-pole
traffic light: object--traffic-light
traffic sign: object--traffic-sign--front
vegetation: nature--vegetation
terrain: nature--terrain
sky: nature--sky
person: human--person
rider: human--rider--bicyclist, human--rider--motorcyclist, human--rider--other-rider
car: object--vehicle--car
truck: object--vehicle--truck
bus: object--vehicle--bus
train: object--vehicle--on-rails
motorcycle: object--vehicle--motorcycle
bicycle: object--vehicle--bicycle
"""
"""Choi et al., RobustNet, 2021: `datasets/mapillary.py` of https://github.com/shachoi/RobustNet."""

OPENSEG = """
road: construction--flat--road, construction--flat--bike-lane, construction--flat--crosswalk-plain
road: construction--flat--parking, construction--flat--service-lane, marking--crosswalk-zebra, marking--general
sidewalk: construction--flat--sidewalk, construction--barrier--curb, construction--flat--curb-cut
sidewalk: construction--flat--pedestrian-area
building: construction--structure--building
wall: construction--barrier--wall
fence: construction--barrier--fence
pole: object--support--pole, object--support--utility-pole, object--street-light
traffic light: object--traffic-light
traffic sign: object--traffic-sign--front, object--traffic-sign--back, object--support--traffic-sign-frame
vegetation: nature--vegetation
terrain: nature--terrain
sky: nature--sky
person: human--person
rider: human--rider--bicyclist, human--rider--motorcyclist, human--rider--other-rider
car: object--vehicle--car
truck: object--vehicle--truck
bus: object--vehicle--bus
train: object--vehicle--on-rails
motorcycle: object--vehicle--motorcycle
bicycle: object--vehicle--bicycle
"""
"""What the rules on names in `lib/datasets/preprocess/mapillary/mapillary_generator.py` of
https://github.com/openseg-group/openseg.pytorch come to; Rein (Wei et al., 2024) has them from there
(`tools/convert_datasets/mapillary2cityscape.py`, https://github.com/w1oves/Rein)."""
