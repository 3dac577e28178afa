--- Values the source did not send are not assigned: one statement for each set of columns.
-- table t: id int key, a int null, b blob null
-- settings: partial
-- update t (1, 1, …) -> (1, 2, …)
-- update t (2, 1, …) -> (2, 2, b'x')
-- insert t (3, 1, b'y')
-- update t (3, 1, …) -> (3, 2, …)

UPDATE (VALUES ROW(1,2)) AS n(c0,c1) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`a`=n.c1;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
UPDATE (VALUES ROW(2,2,_binary'x')) AS n(c0,c1,c2) STRAIGHT_JOIN `t` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`a`=n.c1,t.`b`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
INSERT INTO `t` (`id`,`a`,`b`) VALUES (3,2,_binary'y');
